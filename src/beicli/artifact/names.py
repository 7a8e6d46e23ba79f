"""Names by which an engine directory is recognised, for code that must not load the rest."""

MANIFEST_NAME = "manifest.json"
REPORT_NAME = "report.json"
GOLDEN_NAME = "golden.npz"
