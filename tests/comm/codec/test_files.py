"""`.3lc` files and the two commands."""

import json
import struct

import pytest
import torch

from drivetrain.base.errors import MissingFile
from drivetrain.cli import main
from drivetrain.comm.codec import CodecError, CodecRules, NonFiniteGradient, ThreeLC, WireError, read_3lc, write_3lc
from drivetrain.comm.codec.convert import decode_file, encode_file

safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "layer1.weight": torch.randn(64, 50, generator=generator),
        "layer1.bias": torch.randn(64, generator=generator),
        "half": torch.randn(3000, generator=generator).half(),
        "brain": torch.randn(2, 1024, generator=generator).bfloat16(),
        "double": torch.randn(7, generator=generator).double(),
        "steps": torch.tensor(7),
        "mask": torch.rand(10, generator=generator) > 0.5,
        "empty": torch.empty(0, 3),
    }


def test_round_trip(tmp_path, tensors) -> None:
    write_3lc(tmp_path / "g.3lc", tensors)
    read = read_3lc(tmp_path / "g.3lc")
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        assert read[name].shape == tensor.shape and read[name].dtype == tensor.dtype
    for name in ("layer1.bias", "steps", "mask"):
        assert torch.equal(read[name], tensors[name])
    wanted = ThreeLC().encode(tensors["layer1.weight"]).value
    assert torch.equal(read["layer1.weight"], wanted)
    write_3lc(tmp_path / "again.3lc", tensors)
    assert (tmp_path / "again.3lc").read_bytes() == (tmp_path / "g.3lc").read_bytes()


def test_layout_on_disk(tmp_path) -> None:
    """What another program needs to read: magic, u64, JSON, messages."""
    write_3lc(tmp_path / "g.3lc", {"w": torch.zeros(1024), "n": torch.tensor([1, 2], dtype=torch.int16)})
    content = (tmp_path / "g.3lc").read_bytes()
    assert content[:8] == b"DT3LC\0\0\1"
    (length,) = struct.unpack("<Q", content[8:16])
    message = ThreeLC().encode(torch.zeros(1024)).data
    assert json.loads(content[16 : 16 + length]) == {
        "w": {"shape": [1024], "dtype": "float32", "offset": 0, "nbytes": len(message)},
        "n": {"shape": [2], "dtype": "int16", "offset": len(message), "nbytes": 4},
    }
    assert content[16 + length :] == bytes(message.tolist()) + struct.pack("<hh", 1, 2)


def test_decoded_halves_do_not_overflow(tmp_path) -> None:
    """With s = 1.9 the largest value, 60000, comes back as 114000: more than float16 has."""
    write_3lc(tmp_path / "g.3lc", {"h": torch.full((2000,), 60_000.0).half()}, CodecRules(ThreeLC(1.9)))
    assert read_3lc(tmp_path / "g.3lc")["h"][0] == 65504


def test_every_cut_and_every_changed_byte_of_the_header_is_refused_or_read(tmp_path, tensors) -> None:
    path = tmp_path / "g.3lc"
    write_3lc(path, {"w": tensors["layer1.weight"], "m": tensors["mask"]})
    content = path.read_bytes()
    broken = tmp_path / "broken.3lc"
    for length in [*range(0, 200, 3), len(content) - 1]:
        broken.write_bytes(content[:length])
        with pytest.raises(WireError):
            read_3lc(broken)
    broken.write_bytes(content + b"x")
    with pytest.raises(WireError, match="1 bytes beyond its last tensor"):
        read_3lc(broken)
    for at in range(16 + content[8] + 40):
        broken.write_bytes(content[:at] + bytes([content[at] ^ 0x11]) + content[at + 1 :])
        try:
            read_3lc(broken)
        except WireError as error:
            assert "broken.3lc" in str(error)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": [9, 9]}, r"tensor 'w': shape \(9, 9\) has 81 values, its message 2000"),
        ({"shape": "x"}, "shape is 'x'"),
        ({"dtype": "float31"}, "dtype is 'float31'"),
        ({"offset": 4}, "offset is 4"),
        ({"nbytes": 10**9}, "nbytes is 1000000000"),
        ({"nbytes": -1}, "nbytes is -1"),
        ({"dtype": "int64"}, "shape and dtype take 16000"),
        ({"extra": 1}, "must have shape, dtype, offset and nbytes"),
    ],
)
def test_altered_entries(tmp_path, change, words) -> None:
    write_3lc(tmp_path / "g.3lc", {"w": torch.randn(2000)})
    content = (tmp_path / "g.3lc").read_bytes()
    length = int.from_bytes(content[8:16], "little")
    header = json.loads(content[16 : 16 + length])
    header["w"].update(change)
    text = json.dumps(header).encode()
    (tmp_path / "g.3lc").write_bytes(content[:8] + struct.pack("<Q", len(text)) + text + content[16 + length :])
    with pytest.raises(WireError, match=words):
        read_3lc(tmp_path / "g.3lc")


def test_what_can_not_be_written_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "g.3lc"
    path.write_bytes(b"old")
    with pytest.raises(NonFiniteGradient, match="parameter 'w' has 1 non-finite value, the first at 2 of 3"):
        write_3lc(path, {"w": torch.tensor([1.0, 2.0, float("nan")])})
    with pytest.raises(CodecError, match="'c' is torch.complex64"):
        write_3lc(path, {"c": torch.zeros(2, dtype=torch.complex64)})
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(MissingFile):
        read_3lc(tmp_path / "none.3lc")


def test_reports(tmp_path, tensors) -> None:
    safetensors.save_file(tensors, tmp_path / "g.safetensors")
    report = encode_file(tmp_path / "g.safetensors", tmp_path / "g.3lc", CodecRules(ThreeLC(block=0)))
    assert report.ratio == (tmp_path / "g.safetensors").stat().st_size / (tmp_path / "g.3lc").stat().st_size
    by_name = {tensor.name: tensor for tensor in report.tensors}
    weight = by_name["layer1.weight"]
    assert weight.codec == "3lc" and by_name["layer1.bias"].codec == "raw" and by_name["mask"].codec == "bytes"
    assert 0 < weight.max_error <= weight.peak / 2 == float(tensors["layer1.weight"].abs().max()) / 2
    assert report.max_error == max(tensor.max_error for tensor in report.tensors)
    back = decode_file(tmp_path / "g.3lc", tmp_path / "b.safetensors", tmp_path / "g.safetensors")
    assert back.tensors == report.tensors and back.max_error == report.max_error
    read = safetensors.load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(read[name], value) for name, value in read_3lc(tmp_path / "g.3lc").items())


@pytest.fixture
def comm(cli, monkeypatch, tmp_path, tensors):
    """`drivetrain comm ...` in a folder that has g.safetensors."""
    monkeypatch.setitem(main.ROOMS, "comm", "the exchange of gradients")
    safetensors.save_file(tensors, tmp_path / "g.safetensors")
    return lambda *args: cli("comm", *args, cwd=tmp_path)


def test_commands(comm, tmp_path) -> None:
    encoded = comm("encode", "g.safetensors", "-o", "g.3lc", "-s", "1.5", "--block", "256", "--raw", "half")
    assert encoded.exit_code == 0, encoded.stderr
    first, *rest = encoded.stdout.splitlines()
    assert first.startswith("g.3lc: ") and "largest error" in first
    assert any(line.split()[:3] == ["half", "3000", "raw"] for line in rest)
    assert rest[-1] == "next: drivetrain comm decode g.3lc -o g.decoded.safetensors"
    decoded = comm("decode", "g.3lc", "--json", "--original", "g.safetensors")
    facts = json.loads(decoded.stdout)
    assert decoded.exit_code == 0 and facts["max_error"] > 0
    assert (tmp_path / "g.decoded.safetensors").exists()
    again = json.loads(comm("encode", "g.safetensors", "--json", "--codec", "fp16", "--min-numel", "0").stdout)
    assert {tensor["codec"] for tensor in again["tensors"]} == {"fp16", "bytes"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encode", "none.safetensors"], "there is no file none.safetensors"),
        (["encode", "g.safetensors", "--codec", "3lcc"], "did you mean '3lc'"),
        (["encode", "g.safetensors", "-s", "2"], "at least 1 and less than 2"),
        (["encode", "g.safetensors", "--codec", "raw", "--block", "3"], "takes no option 'block'"),
        (["encode", "g.safetensors", "-o", "g.safetensors"], "written over itself"),
        (["encode", "text.3lc", "-o", "new.3lc"], "is not a safetensors file"),
        (["decode", "none.3lc"], "there is no file none.3lc"),
        (["decode", "g.safetensors"], "is not a .3lc file"),
        (["decode", "text.3lc"], "is not a .3lc file"),
    ],
)
def test_commands_with_bad_input(comm, tmp_path, words, message) -> None:
    (tmp_path / "text.3lc").write_text("some text")
    before = sorted(tmp_path.iterdir())
    result = comm(*words)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_decode_against_other_tensors(comm, tmp_path) -> None:
    comm("encode", "g.safetensors")
    safetensors.save_file({"steps": torch.zeros(2)}, tmp_path / "other.safetensors")
    result = comm("decode", "g.3lc", "--original", "other.safetensors")
    assert result.exit_code == 2
    assert "tensor 'steps' has shape (2,) in other.safetensors, and has shape () in the .3lc file" in result.stderr
