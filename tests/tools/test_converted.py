"""`python -m tools.converted` on a model with random weights: what it prints is what the precisions change."""

import torch
from fixed_loader import SMALL

from amt.model import AMT, ModelConfig
from amt.model.checkpoint import save_checkpoint
from tools import converted


def test_the_rows_show_what_bf16_and_fp8_change(tmp_path, make_batch, monkeypatch, capsys):
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "ck", AMT(ModelConfig(**SMALL)), data={"crop": {"num_points": 32}})
    batch = make_batch(6, crop=32, points=32)
    batch.targets.hand_valid[2] = False
    monkeypatch.setattr(converted, "make_loader", lambda *_, **__: [batch[torch.arange(4)], batch[torch.arange(4, 6)]])
    assert converted.main([str(tmp_path / "ck"), str(tmp_path)]) == 0
    first, second, *table = capsys.readouterr().out.splitlines()
    assert first.startswith("FP8 products in ")
    assert second.endswith("wrist-aligned on 5 test frames")
    rows = {
        cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("| ").split("|")] for line in table[2:8])
    }
    assert len(rows) == 6
    cosine = {name: float(cells[3]) for name, cells in rows.items()}
    assert 0.9 < cosine["FP8, rest bf16"] < cosine["bf16"] < 1
    assert all(cosine[f"{name}, float32's coarse scene"] >= cosine[name] for name in converted.FORMS)
    assert table[-2].startswith("FP8, rest bf16: error moves by ")
    assert table[-1].startswith("FP8, rest bf16: mean cosine 0.9")


def test_a_missing_checkpoint_is_one_line(tmp_path, capsys):
    assert converted.main([str(tmp_path / "no"), "data"]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "no") in error
    assert error.count("\n") == 1
