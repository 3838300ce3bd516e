"""How findings are kept."""

from clip_search_server.index.findings import RESTORE, WRITE_AGAIN, Findings


def test_each_finding_is_kept_once() -> None:
    """A damaged page that a thousand items lie behind is one finding, and its file is named once."""
    findings = Findings()
    for _ in range(3):
        findings.add("store", "store is damaged", RESTORE)
    findings.add("store", "store is damaged", WRITE_AGAIN)
    findings.add("other", "store is damaged", RESTORE)
    assert [(finding.subject, finding.problem) for finding in findings.found] == [
        ("store", "is damaged"),
        ("store", "is damaged"),
        ("other", "store is damaged"),
    ]
    assert findings.more == 0


def test_findings_are_bounded() -> None:
    """Beyond a thousand they are counted."""
    findings = Findings()
    for number in range(1_010):
        findings.add("store", f"row {number} is damaged", WRITE_AGAIN)
    assert len(findings.found) == 1_000
    assert findings.more == 10
