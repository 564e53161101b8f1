"""Images whose numbers mean something else: 16 bits a channel, colour profiles made by hand."""

import struct
import zlib

import numpy as np

SIDE_PX = 48
# Matrices to XYZ under D50, as Lindbloom's tables give them: Adobe RGB (1998) and sRGB.
ADOBE = [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)]
SRGB = [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)]


def bright(seed=0):
    """(48,48,3) uint8 of tissue in light: every level to 255, most of them high."""
    levels = np.random.default_rng(seed).normal(190, 40, (SIDE_PX, SIDE_PX, 3))
    return levels.clip(0, 255).round().astype(np.uint8)


def deep(pixels, bits):
    """uint16 of uint8 pixels spread over a range of bits."""
    return np.round(pixels.astype(float) / 255 * (2**bits - 1)).astype(np.uint16)


def png_of_16_bits(path, values):
    """Path of a PNG of (H,W,3 or 4) uint16, which Pillow cannot write."""
    height, width, channels = values.shape
    kind = {3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in parts:
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)
    return path


def matrix_profile(primaries, gamma):
    """bytes of an ICC profile of RGB by a matrix to XYZ and one power for all channels."""

    def fixed(*numbers):
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    text = b"made by hand\0"
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(79),
        b"cprt": b"text" + bytes(4) + text,
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249),
    }
    for channel, primary in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags[channel + b"XYZ"] = b"XYZ " + bytes(4) + fixed(*primary)
        tags[channel + b"TRC"] = curve
    table = struct.pack(">I", len(tags))
    offset = 128 + 4 + 12 * len(tags)
    body = b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    size = offset + len(body)
    header = struct.pack(">I", size) + bytes(4) + struct.pack(">I", 0x02400000)
    header += b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + table + body
