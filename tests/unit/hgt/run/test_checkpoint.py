"""Checkpoint files: any damage is noticed, and what a damaged one gives way to is always there."""

import pytest
import torch

from hgt.errors import CheckpointError
from hgt.run.checkpoint import (
    Checkpoint,
    Progress,
    best_checkpoint,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)


def save(folder, epoch, best, batch=0):
    progress = Progress(
        seed=7, epoch=epoch, batch=batch, best_epoch=best, history=({"epoch": epoch, "loss": 0.5},)
    )
    return save_checkpoint(
        folder,
        Checkpoint(
            {"model.a": torch.arange(6.0) + epoch, "model.b": torch.ones(2, 3)}, progress, "g", "c"
        ),
    )


def newest(folder):
    return load_newest(folder, "g", "c")[0].progress


def test_any_changed_byte_is_noticed(tmp_path):
    path = save(tmp_path, 1, 1)
    content = path.read_bytes()
    whole = load_checkpoint(path)
    for place in range(len(content)):
        for bits in (0x01, 0x20, 0xFF):
            path.write_bytes(
                content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]
            )
            try:
                read = load_checkpoint(path)
            except CheckpointError:
                continue
            assert read.progress == whole.progress, f"byte {place}"
            assert (read.graph_hash, read.config_fingerprint) == ("g", "c")
            assert all(
                torch.equal(read.tensors[name], whole.tensors[name]) for name in whole.tensors
            )


def test_whole_checkpoints_are_not_pushed_out_by_damaged_later_ones(tmp_path):
    for epoch in (1, 2, 3):
        save(tmp_path, epoch, best=1)
    for epoch in (2, 3):
        (tmp_path / f"checkpoint-0000{epoch}-00000.safetensors").write_bytes(b"damaged")
    assert newest(tmp_path).epoch == 1
    save(tmp_path, 1, best=1, batch=1)
    assert (newest(tmp_path).epoch, newest(tmp_path).batch) == (1, 1)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_damaged_newest_gives_way_to_has_its_best(tmp_path):
    for epoch, best in ((1, 1), (2, 1), (3, 1), (4, 4)):
        save(tmp_path, epoch, best)
    assert sorted(path.name[:16] for path in tmp_path.iterdir()) == [
        f"checkpoint-0000{epoch}" for epoch in (1, 3, 4)
    ]
    (tmp_path / "checkpoint-00004-00000.safetensors").write_bytes(b"damaged")
    assert newest(tmp_path).epoch == 3
    assert best_checkpoint(tmp_path).progress.epoch == 1
    save(tmp_path, 4, best=1)
    save(tmp_path, 5, best=5)
    save(tmp_path, 6, best=5)
    assert sorted(path.name[:16] for path in tmp_path.iterdir()) == [
        "checkpoint-00005",
        "checkpoint-00006",
    ]


def test_a_killed_trainers_half_written_file_goes(tmp_path):
    save(tmp_path, 1, best=1)
    (tmp_path / "checkpoint-00001-00003.tmp").write_bytes(b"half")
    assert newest(tmp_path).epoch == 1
    save(tmp_path, 2, best=1)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_damaged_best_is_not_replaced_by_a_worse_one(tmp_path):
    for epoch in (1, 2, 3):
        path = save(tmp_path, epoch, best=1)
    path.with_name("checkpoint-00001-00000.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"00001-00000.* is damaged .*: remove .* and resume"):
        best_checkpoint(tmp_path)


def test_a_folder_without_a_readable_checkpoint(tmp_path):
    assert load_newest(tmp_path, "g", "c") == (None, [])
    save(tmp_path, 1, best=1).write_bytes(b"")
    checkpoint, skipped = load_newest(tmp_path, "g", "c")
    assert checkpoint is None
    assert len(skipped) == 1
    with pytest.raises(CheckpointError, match="holds no readable checkpoint"):
        best_checkpoint(tmp_path)
