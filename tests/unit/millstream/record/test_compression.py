"""Codecs, and their caps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.record import (
    CODEC_NUMBERS,
    DecompressionError,
    UnsupportedCodecError,
    compress,
    decompress,
)
from millstream.record.compression import require_codec

CODECS = sorted(CODEC_NUMBERS.values())
REAL = [number for number in CODECS if number]


@given(st.binary(max_size=5000), st.sampled_from(CODECS))
def test_data_comes_back(data: bytes, codec: int) -> None:
    assert decompress(codec, compress(codec, data)) == data


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5 << 20])
def test_sizes_around_the_scratch_buffer(codec: int, size: int) -> None:
    data = b"x" * size
    assert decompress(codec, compress(codec, data)) == data


@pytest.mark.parametrize("codec", CODECS)
def test_the_cap_is_exact(codec: int) -> None:
    data = b"0123456789" * 1000
    packed = compress(codec, data)
    assert decompress(codec, packed, len(data)) == data
    for cap in (len(data) - 1, 1, 0):
        with pytest.raises(DecompressionError):
            decompress(codec, packed, cap)


@pytest.mark.parametrize("codec", REAL)
def test_a_bomb_is_refused(codec: int) -> None:
    bomb = compress(codec, bytes(64 << 20))
    assert len(bomb) < 1 << 20
    with pytest.raises(DecompressionError):
        decompress(codec, bomb)


@pytest.mark.parametrize("codec", REAL)
def test_cut_spoilt_or_followed_by_rubbish_is_refused(codec: int) -> None:
    packed = compress(codec, b"some text, some text, some text" * 10)
    for size in range(len(packed)):
        with pytest.raises(DecompressionError):
            decompress(codec, packed[:size])
    with pytest.raises(DecompressionError):
        decompress(codec, packed + b"rubbish")


@given(st.binary(max_size=300), st.sampled_from(REAL))
def test_rubbish_is_refused_with_the_one_error(data: bytes, codec: int) -> None:
    try:
        decompress(codec, data, 10_000)
    except DecompressionError:
        pass


@pytest.mark.parametrize("codec", [1, 2, 5, 6, 7])
def test_an_unknown_codec_is_named(codec: int) -> None:
    for call in (lambda: compress(codec, b""), lambda: decompress(codec, b"")):
        with pytest.raises(UnsupportedCodecError, match=str(codec)):
            call()
    with pytest.raises(UnsupportedCodecError):
        require_codec(codec)
    require_codec(0)
