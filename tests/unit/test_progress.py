"""What long work says where nobody watches a bar."""

from mmtok.progress import Progress


def test_a_line_now_and_then(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Progress("train model", total=1000, unit="steps", start=100) as progress:
        for step in range(3):
            now[0] += 6.0
            progress.update(note=f"loss {step}")
        progress.update(97)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "train model: 102/1000 steps, 0.2 steps/s, 1:29:48 to go, loss 1",
        "train model: 200/1000 steps, 5.6 steps/s, 02:24 to go, loss 2",
    ]
