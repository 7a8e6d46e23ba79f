"""TensorRT on a GPU: batches padded or end to end, several in flight, small ones recorded."""

import logging
import queue
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beicli.artifact.manifest import TOKEN_OUTPUTS, Manifest
from beicli.engine.batch import Batch, EngineOutput, Float32, padded_inputs
from beicli.engine.packing import is_packed, packed_inputs
from beicli.engine.tensorrt.checks import check_plan
from beicli.engine.tensorrt.contexts import Context, LoadedPlan, can_record_itself, make_context
from beicli.engine.tensorrt.device import DeviceLostError, DeviceMemory, DeviceOutOfMemoryError
from beicli.engine.tensorrt.graphs import GraphSwitch, Recording
from beicli.engine.tensorrt.shapes import Pass, halves, padded_length, plan_passes, with_dummies
from beicli.engine.tensorrt.slots import LANES_PER_SLOT, Holdings, Lane, open_lane, open_slot
from beicli.errors import BeiError, EngineLostError
from beicli.tensorrt.engine_plan import gpu_target
from beicli.tensorrt.profiles import input_shape

logger = logging.getLogger(__name__)

# One batch that computes, and one that is copied in or out meanwhile.
DEFAULT_NUM_SLOTS = LANES_PER_SLOT


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """How an engine uses the GPU.

    num_slots: callers at the same time; each two share a stream of the GPU.
    preferred_num_tokens: padded tokens where a batch is cut.
    max_cuda_graphs: recordings that are kept for each caller; 0 records nothing.
    """

    num_slots: int = DEFAULT_NUM_SLOTS
    preferred_num_tokens: int
    max_cuda_graphs: int


class TensorRtEngine:
    """A deserialised plan; `forward` may be called from `num_slots` threads.

    Once the GPU is lost, every `forward` raises EngineLostError at once, and `lost` says why.
    """

    def __init__(
        self,
        plan: LoadedPlan,
        device: DeviceMemory,
        manifest: Manifest,
        options: RuntimeOptions,
    ) -> None:
        """Raises PlanError if the plan is another engine's, DeviceOutOfMemoryError without room."""
        self._plan: LoadedPlan | None = plan
        self._device = device
        self._manifest = manifest
        self._profiles = gpu_target(manifest).profiles
        self._is_packed = is_packed(manifest.inputs)
        self._options = options
        self._lost: EngineLostError | None = None
        names = [output.name for output in manifest.outputs]
        self._pooled = next((name for name in names if name not in TOKEN_OUTPUTS), None)
        self._tokens = next((name for name in names if name in TOKEN_OUTPUTS), None)
        # TensorRT for RTX records what it launches by itself, and wants the few shapes as well.
        records = options.max_cuda_graphs > 0
        self._records_itself = records and can_record_itself(plan)
        self._graphs = GraphSwitch(is_on=records and not self._records_itself)
        device.make_current()
        check_plan(plan, manifest)
        self._holdings = Holdings(device)
        try:
            self._lanes = self._open_lanes(plan)
        except BaseException:
            self._holdings.close()
            raise
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for lane in self._lanes:
            self._free.put(lane)

    @property
    def num_slots(self) -> int:
        return self._options.num_slots

    @property
    def preferred_num_tokens(self) -> int:
        return self._options.preferred_num_tokens

    @property
    def lost(self) -> EngineLostError | None:
        """Why nothing can be computed any more; None while it can."""
        return self._lost

    def padded_length(self, num_tokens: int) -> int:
        # Recorded batches are padded further. They take the time of their launch, not of their
        # tokens, so for whoever asks what a batch costs it makes no difference.
        return padded_length(num_tokens, self._manifest.limits.max_input_length)

    def forward(self, batch: Batch) -> EngineOutput:
        """Run one batch on a free lane, in several passes where no profile admits it.

        Raises EngineLostError if the GPU is lost, DeviceOutOfMemoryError if one sequence alone has
        no room, and EngineError with what TensorRT or CUDA says.
        """
        lane = self._free.get()
        try:
            if self._lost is not None:
                raise EngineLostError(self._lost.message, hint=self._lost.hint)
            self._device.make_current()
            return self._run(lane, batch)
        except DeviceLostError as error:
            self._lose(error)
            raise
        finally:
            self._free.put(lane)

    def close(self) -> None:
        """Free everything on the GPU, and pinned memory."""
        if self._plan is None:
            return
        plan, self._plan = self._plan, None
        try:
            self._device.make_current()
            plan.save_runtime_cache()
            self._holdings.close()
        except DeviceLostError as error:
            # What it held is gone with it.
            logger.warning("the GPU was lost before it could be tidied up: %s", error.message)
        self._lanes.clear()
        while not self._free.empty():
            self._free.get()

    def _open_lanes(self, plan: LoadedPlan) -> list[Lane]:
        """Make slots and their lanes; the first lane of each slot comes before any second one."""
        num_streams = -(-self.num_slots // LANES_PER_SLOT)
        slots = [open_slot(plan, self._holdings) for _ in range(num_streams)]
        lanes = []
        for number in range(self.num_slots):
            lane = open_lane(
                slots[number % num_streams],
                self._device,
                self._manifest,
                self._holdings,
                max_recordings=self._options.max_cuda_graphs,
            )
            lane.contexts.extend(
                self._make_context(lane, profile) for profile in range(len(self._profiles))
            )
            lanes.append(lane)
        return lanes

    def _make_context(self, lane: Lane, profile: int) -> Context:
        assert self._plan is not None, "no forward follows close"
        return make_context(
            self._plan,
            self._device,
            lane.memory,
            profile,
            records_itself=self._records_itself and profile == 0,
        )

    def _run(self, lane: Lane, batch: Batch) -> EngineOutput:
        """Run a batch; where memory runs out, without recordings, and then in halves."""
        passes = plan_passes(
            batch,
            self._profiles,
            max_length=self._manifest.limits.max_input_length,
            has_buckets=self._records_itself or self._graphs.is_on,
        )
        return _joined([self._run_pass_or_halves(lane, each) for each in passes])

    def _run_pass_or_halves(self, lane: Lane, work: Pass) -> EngineOutput:
        try:
            return self._run_pass(lane, work)
        except DeviceOutOfMemoryError as error:
            if self._drop_recordings():
                logger.info("recorded launches were dropped for want of memory")
                return self._run(lane, work.batch)
            if work.batch.num_sequences == 1:
                raise self._explain_out_of_memory(error, work) from error
        return _joined([self._run(lane, half) for half in halves(work.batch)])

    def _run_pass(self, lane: Lane, work: Pass) -> EngineOutput:
        dimensions = work.dimensions
        model = self._manifest.model
        padded = with_dummies(work.batch, dimensions.num_sequences, model.pad_token_id)
        is_token = padded.is_token(dimensions.length)
        if self._is_packed:
            inputs = packed_inputs(padded, is_token, work.num_tokens, model)
        else:
            inputs = padded_inputs(padded, is_token, model)
        wanted = [self._pooled, self._tokens if work.batch.needs_tokens else None]
        try:
            lane.send(inputs, work)
            lane.compute(lambda: self._enqueue(lane, work))
            outputs = lane.receive([name for name in wanted if name is not None], work)
        except BaseException:
            lane.quiesce()
            raise
        num_sequences = work.batch.num_sequences
        pooled, tokens = (None if name is None else outputs[name] for name in wanted)
        return EngineOutput(
            # Copied, as the buffers are written to by the next batch.
            pooled=None if pooled is None else np.array(pooled[:num_sequences]),
            tokens=None if tokens is None else self._token_rows(tokens, is_token, work),
        )

    def _token_rows(self, tokens: Float32, is_token: NDArray[np.bool_], work: Pass) -> Float32:
        """Return a copy of the rows of the batch's own tokens, end to end."""
        if self._is_packed:
            return np.array(tokens[: work.batch.num_tokens])
        num_sequences = work.batch.num_sequences
        return tokens[:num_sequences][is_token[:num_sequences]]

    def _enqueue(self, lane: Lane, work: Pass) -> None:
        """Put a run in the stream of the lane's slot: recorded, to be recorded, or plainly."""
        recordings, dimensions = lane.recordings, work.dimensions
        # Of another batch of these dimensions there may be fewer tokens, end to end.
        recording = recordings.get(dimensions) if work.is_bucket else None
        if recording is not None:
            self._device.launch_graph(recording.graph, lane.slot.stream)
            return
        is_due = work.is_bucket and self._graphs.is_on and recordings.is_due(dimensions)
        own = self._make_own_context(lane, work) if is_due else None
        context = own or lane.contexts[work.profile]
        context.set_shapes(
            {
                each.name: input_shape(each, dimensions, work.num_tokens)
                for each in self._manifest.inputs
            }
        )
        context.enqueue(lane.slot.stream)
        if own is not None:
            self._record(lane, work, own)

    def _make_own_context(self, lane: Lane, work: Pass) -> Context | None:
        """Return a context for one recording; None if there is none to be had."""
        try:
            return self._make_context(lane, work.profile)
        except DeviceLostError:
            raise
        except BeiError as error:
            self._graphs.turn_off(error)
            return None

    def _record(self, lane: Lane, work: Pass, context: Context) -> None:
        """Record what has just run once: the first run after a shape is set does more than run."""
        stream = lane.slot.stream
        try:
            graph = self._device.capture(stream, lambda: context.enqueue(stream))
        except DeviceLostError:
            raise
        except BeiError as error:
            self._graphs.turn_off(error)
            # Nobody holds the context any more, and its plain run may still need it.
            self._device.synchronize_stream(stream)
            return
        lane.recordings.put(work.dimensions, Recording(graph, context))

    def _drop_recordings(self) -> bool:
        """Free the memory of what all lanes have recorded; return whether there was any."""
        had_any = False
        for lane in self._lanes:
            # No other caller launches one meanwhile, and none is still running.
            with lane.slot.lock:
                self._device.synchronize_stream(lane.slot.stream)
                had_any = lane.recordings.clear() or had_any
        return had_any

    def _explain_out_of_memory(
        self, error: DeviceOutOfMemoryError, work: Pass
    ) -> DeviceOutOfMemoryError:
        info = self._device.memory_info()
        return DeviceOutOfMemoryError(
            f"the GPU has no room for one sequence of {work.batch.num_tokens:,} tokens, with "
            f"{info.free_bytes / 1e9:.1f} of {info.total_bytes / 1e9:.1f} GB free: {error.message}",
            hint="stop what else uses the GPU, or serve with `--num-slots 1`",
        )

    def _lose(self, error: DeviceLostError) -> None:
        if self._lost is None:
            logger.error("the GPU is lost: %s", error.message)
            self._lost = error


def _joined(outputs: list[EngineOutput]) -> EngineOutput:
    """Return the outputs of parts of a batch as that of the whole."""
    if len(outputs) == 1:
        return outputs[0]
    return EngineOutput(
        pooled=_concatenate([each.pooled for each in outputs]),
        tokens=_concatenate([each.tokens for each in outputs]),
    )


def _concatenate(parts: list[Float32 | None]) -> Float32 | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None
