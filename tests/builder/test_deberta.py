"""The attention that is exported for DeBERTa v2 against transformers' own, in torch."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers

from beicli.builder.deberta import direct_attention

WINDOW = 40
SIZES: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": WINDOW,
    "type_vocab_size": 0,
    "relative_attention": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "initializer_range": 0.2,
}
BOTH = ["p2c", "c2p"]


def model(**config: Any) -> Any:
    torch.manual_seed(2)
    return transformers.DebertaV2Model(transformers.DebertaV2Config(**SIZES | config)).eval()


@pytest.mark.parametrize("lengths", [(1,), (WINDOW,), (7, 1, 30), (2, WINDOW)])
@pytest.mark.parametrize(
    "config",
    [
        {"position_buckets": 8, "share_att_key": True, "pos_att_type": BOTH},
        {"position_buckets": 8, "share_att_key": False, "pos_att_type": BOTH},
        {"position_buckets": 8, "share_att_key": True, "pos_att_type": ["c2p"]},
        {"position_buckets": 8, "share_att_key": False, "pos_att_type": ["p2c"]},
        {"position_buckets": -1, "share_att_key": True, "pos_att_type": BOTH},
        # Distances beyond the last row of the table.
        {"max_relative_positions": 5, "share_att_key": True, "pos_att_type": BOTH},
        {"relative_attention": False, "position_biased_input": True},
        {"position_buckets": 8, "pos_att_type": BOTH, "conv_kernel_size": 3},
    ],
)
def test_the_numbers_are_those_of_transformers(
    config: Mapping[str, Any], lengths: tuple[int, ...]
) -> None:
    network = model(**config)
    mask = torch.tensor([[i < length for i in range(max(lengths))] for length in lengths]).long()
    ids = torch.randint(1, SIZES["vocab_size"], mask.shape) * mask
    with torch.no_grad():
        wanted = network(input_ids=ids, attention_mask=mask)[0]
        with direct_attention(network, num_positions=WINDOW):
            found = network(input_ids=ids, attention_mask=mask)[0]
        again = network(input_ids=ids, attention_mask=mask)[0]

    is_token = mask.bool()
    torch.testing.assert_close(found[is_token], wanted[is_token], rtol=0, atol=2e-5)
    assert torch.equal(again, wanted)
    assert wanted.abs().max() > 0.1
