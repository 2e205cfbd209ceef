"""From JSON bytes straight to VW's feature indices: the fast half of hashing.

`hash_object` reads one JSON object and appends what VW would see of it. It knows the ordinary alone:
no escapes, no odd numbers, no name twice, nothing that `bandit.features.hashing` would refuse. At anything else
it gives up with -1, and the caller takes the slow path, which decides and explains. So there is one
authority, and the fast path only has to agree with it where it answers at all.

The kernels that call these stand in this file too: numba's cache notices a change of the caller's own file
alone, and would go on with old copies of what was inlined from another.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

# More than this is unusual enough for the slow path; keeps the sort below quadratic in little.
MAX_TOKENS: Final = 96
MAX_SPACES: Final = 16
MAX_BYTES: Final = 256
SCRATCH_BYTES: Final = 32768

_ITEM: Final = ord("I")
_TRAITS: Final = ord("F")
_GROUP, _CREATOR, _SOUND, _TAGS = (np.frombuffer(name, np.uint8) for name in (b"group", b"creator", b"sound", b"tags"))
_TEN: Final = 10.0 ** np.arange(23)


@njit(cache=True, nogil=True)
def murmur3_span(data, start, length, seed):  # type: ignore[no-untyped-def]
    """MurmurHash3 (x86, 32 bits) of ``data[start:start + length]``.

    Source: Austin Appleby's MurmurHash3, in the public domain.
    """
    c1 = np.uint32(0xCC9E2D51)
    c2 = np.uint32(0x1B873593)
    h = np.uint32(seed)
    blocks = length // 4
    for b in range(blocks):
        at = start + 4 * b
        k = (
            np.uint32(data[at])
            | (np.uint32(data[at + 1]) << np.uint32(8))
            | (np.uint32(data[at + 2]) << np.uint32(16))
            | (np.uint32(data[at + 3]) << np.uint32(24))
        )
        k = np.uint32(k * c1)
        k = np.uint32((k << np.uint32(15)) | (k >> np.uint32(17)))
        k = np.uint32(k * c2)
        h = np.uint32(h ^ k)
        h = np.uint32((h << np.uint32(13)) | (h >> np.uint32(19)))
        h = np.uint32(h * np.uint32(5) + np.uint32(0xE6546B64))
    tail = start + 4 * blocks
    left = length - 4 * blocks
    if left > 0:
        k = np.uint32(data[tail])
        if left > 1:
            k = np.uint32(k | (np.uint32(data[tail + 1]) << np.uint32(8)))
        if left > 2:
            k = np.uint32(k | (np.uint32(data[tail + 2]) << np.uint32(16)))
        k = np.uint32(k * c1)
        k = np.uint32((k << np.uint32(15)) | (k >> np.uint32(17)))
        k = np.uint32(k * c2)
        h = np.uint32(h ^ k)
    h = np.uint32(h ^ np.uint32(length))
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x85EBCA6B))
    h = np.uint32(h ^ (h >> np.uint32(13)))
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@njit(cache=True, nogil=True)
def _skip_blank(buf, pos, end):  # type: ignore[no-untyped-def]
    while pos < end and (buf[pos] == 0x20 or buf[pos] == 0x0A or buf[pos] == 0x0D or buf[pos] == 0x09):
        pos += 1
    return pos


@njit(cache=True, nogil=True)
def _string_end(buf, pos, end):  # type: ignore[no-untyped-def]
    """Where the string that begins at ``pos`` (past its quote) has its closing quote; -1 if unusual."""
    at = pos
    while at < end:
        c = buf[at]
        if c == 0x22:
            return at if at - pos <= MAX_BYTES else -1
        if c == 0x5C or c < 0x20:
            return -1
        at += 1
    return -1


@njit(cache=True, nogil=True)
def _copy(buf, start, stop, scratch, at):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        scratch[at] = buf[i]
        at += 1
    return at


@njit(cache=True, nogil=True)
def _copy_value(buf, start, stop, scratch, at):  # type: ignore[no-untyped-def]
    """As VW keeps a string value: blank, tab, ``|`` and ``:`` become ``_``."""
    for i in range(start, stop):
        c = buf[i]
        if c == 0x20 or c == 0x7C or c == 0x3A:
            c = np.uint8(0x5F)
        scratch[at] = c
        at += 1
    return at


@njit(cache=True, nogil=True)
def _number(buf, pos, end):  # type: ignore[no-untyped-def]
    """(value as float32, position behind); the position is -1 where the rounding is not certain.

    A mantissa of 18 digits over (or times) a power of ten up to 22 is off by less than two units of the
    last place of a double, so the float32 is certain unless it lies that close to a rounding boundary.
    """
    negative = buf[pos] == 0x2D
    if negative:
        pos += 1
    mantissa = 0
    digits = 0
    power = 0
    first = pos
    dot = False
    while pos < end:
        c = buf[pos]
        if 0x30 <= c <= 0x39:
            if digits == 18:
                return np.float32(0.0), -1
            mantissa = mantissa * 10 + int(c) - 0x30
            digits += mantissa > 0
            power -= dot
        elif c == 0x2E and not dot:
            dot = True
        else:
            break
        pos += 1
    if pos == first:
        return np.float32(0.0), -1
    if pos < end and (buf[pos] == 0x65 or buf[pos] == 0x45):
        pos += 1
        minus = pos < end and buf[pos] == 0x2D
        if pos < end and (minus or buf[pos] == 0x2B):
            pos += 1
        exponent = 0
        first = pos
        while pos < end and 0x30 <= buf[pos] <= 0x39 and exponent < 100:
            exponent = exponent * 10 + int(buf[pos]) - 0x30
            pos += 1
        if pos == first or exponent >= 100:
            return np.float32(0.0), -1
        power += -exponent if minus else exponent
    if power < -22 or power > 22:
        return np.float32(0.0), -1
    value = np.float64(mantissa) / _TEN[-power] if power < 0 else np.float64(mantissa) * _TEN[power]
    if value > 999_999.0:
        return np.float32(0.0), -1
    single = np.float32(value * (1.0 - 1e-15))
    if single != np.float32(value * (1.0 + 1e-15)):
        single = np.float32(value)
        if digits > 15:
            return single, -1
    return (-single if negative else single), pos


@njit(cache=True, nogil=True)
def _compare(scratch, a, a_len, b, b_len):  # type: ignore[no-untyped-def]
    n = min(a_len, b_len)
    for i in range(n):
        x = scratch[a + i]
        y = scratch[b + i]
        if x != y:
            return -1 if x < y else 1
    if a_len == b_len:
        return 0
    return -1 if a_len < b_len else 1


@njit(cache=True, nogil=True)
def _is(buf, start, stop, word):  # type: ignore[no-untyped-def]
    if stop - start != len(word):
        return False
    same = True
    for i in range(len(word)):
        same &= buf[start + i] == word[i]
    return same


@njit(cache=True, nogil=True)
def _space_of(buf, start, stop):  # type: ignore[no-untyped-def]
    """Of an item's features: 0 (``I``) for what it is known by, 1 (``F``) for all else; as `features.KNOWN_BY`."""
    known = _is(buf, start, stop, _GROUP) or _is(buf, start, stop, _CREATOR)
    return 0 if known or _is(buf, start, stop, _SOUND) or _is(buf, start, stop, _TAGS) else 1


@njit(cache=True, nogil=True)
def hash_object(buf, pos, end, ids, id_start, id_stop, resolved, traits, work, letters, idx, val, out):  # type: ignore[no-untyped-def]
    """Append the features of one object at ``out``; how many, or -1 where the slow path must decide.

    :param resolved: True for a resolved text (all members are namespaces), False for an item's
        features as the client wrote them (scalars belong to ``I``, with the id, or to ``F``)
    :param traits: of an item, what it is not known by belongs to ``F``; see `features.resolve_item`
    :param work: from `new_work`
    """
    scratch, spaces, tokens, numbers = work
    # spaces[s]: name start, name length, hash; tokens[t]: space, key start, key length, whole length
    n_spaces = 0
    n_tokens = 0
    at = 0
    if not resolved:
        if id_stop == id_start or id_stop - id_start > MAX_BYTES:
            return -1
        for i in range(id_start, id_stop):
            if ids[i] < 0x20:
                return -1
        scratch[0] = _ITEM
        scratch[1] = _TRAITS
        for s in range(2):
            spaces[s, 0] = s
            spaces[s, 1] = 1
        n_spaces = 2
        scratch[2] = 0x69
        scratch[3] = 0x64
        at = _copy_value(ids, id_start, id_stop, scratch, 4)
        tokens[0, 0] = 0
        tokens[0, 1] = 2
        tokens[0, 2] = 2
        tokens[0, 3] = at - 2
        numbers[0] = 1.0
        n_tokens = 1
    pos = _skip_blank(buf, pos, end)
    if pos >= end or buf[pos] != 0x7B:
        return -1
    pos = _skip_blank(buf, pos + 1, end)
    inside = -1  # the namespace being read, or -1 at the top
    fresh = True  # no member yet in this object
    closed = False
    while pos < end:
        if buf[pos] == 0x7D:
            pos = _skip_blank(buf, pos + 1, end)
            if inside < 0:
                closed = True
                break
            inside = -1
            fresh = False
            continue
        if not fresh:
            if buf[pos] != 0x2C:
                return -1
            pos = _skip_blank(buf, pos + 1, end)
            if pos >= end:
                return -1
        fresh = False
        # A name.
        if buf[pos] != 0x22:
            return -1
        name = pos + 1
        name_end = _string_end(buf, name, end)
        if name_end <= name or buf[name] == 0x5F:
            return -1
        pos = _skip_blank(buf, name_end + 1, end)
        if pos >= end or buf[pos] != 0x3A:
            return -1
        pos = _skip_blank(buf, pos + 1, end)
        if pos >= end or n_tokens >= MAX_TOKENS - 1 or at > SCRATCH_BYTES - 4 * MAX_BYTES:
            return -1
        home = inside if inside >= 0 else (_space_of(buf, name, name_end) if traits else 0)
        c = buf[pos]
        if c == 0x7B:
            if inside >= 0 or n_spaces >= MAX_SPACES:
                return -1
            letter = buf[name]
            if not (0x30 <= letter <= 0x39 or 0x41 <= letter <= 0x5A or 0x61 <= letter <= 0x7A):
                return -1
            if not resolved:
                if name_end - name == 1 and (
                    letter == 0x55 or letter == 0x43 or letter == 0x49 or letter == 0x53
                    or letter == 0x44 or letter == 0x50 or (traits and letter == 0x46)
                ):  # fmt: skip
                    return -1
                # A nothing that bears the name, so that the name standing twice is seen below.
                tokens[n_tokens, 0] = home
                tokens[n_tokens, 1] = at
                at = _copy(buf, name, name_end, scratch, at)
                tokens[n_tokens, 2] = tokens[n_tokens, 3] = name_end - name
                numbers[n_tokens] = 0.0
                n_tokens += 1
            spaces[n_spaces, 0] = at
            spaces[n_spaces, 1] = name_end - name
            at = _copy(buf, name, name_end, scratch, at)
            inside = n_spaces
            n_spaces += 1
            fresh = True
            pos = _skip_blank(buf, pos + 1, end)
            continue
        if resolved and inside < 0:
            return -1
        if inside < 0 and name_end - name == 2 and buf[name] == 0x69 and buf[name + 1] == 0x64:
            return -1
        tokens[n_tokens, 0] = home
        tokens[n_tokens, 1] = at
        tokens[n_tokens, 2] = name_end - name
        at = _copy(buf, name, name_end, scratch, at)
        number = np.float32(1.0)
        if c == 0x22:
            value_end = _string_end(buf, pos + 1, end)
            if value_end < 0:
                return -1
            at = _copy_value(buf, pos + 1, value_end, scratch, at)
            pos = value_end + 1
        elif c == 0x74:
            if end - pos < 4 or buf[pos + 1] != 0x72 or buf[pos + 2] != 0x75 or buf[pos + 3] != 0x65:
                return -1
            pos += 4
        elif c == 0x66:
            if end - pos < 5 or buf[pos + 1] != 0x61 or buf[pos + 2] != 0x6C or buf[pos + 3] != 0x73:
                return -1
            number = np.float32(0.0)
            pos += 5
        elif c == 0x5B:
            # The list's own name as a nothing, then a token for each element.
            tokens[n_tokens, 3] = name_end - name
            numbers[n_tokens] = 0.0
            n_tokens += 1
            pos = _skip_blank(buf, pos + 1, end)
            if pos < end and buf[pos] == 0x5D:
                pos = _skip_blank(buf, pos + 1, end)
                continue
            while True:
                if pos >= end or buf[pos] != 0x22:
                    return -1
                value_end = _string_end(buf, pos + 1, end)
                if value_end < 0 or n_tokens >= MAX_TOKENS - 1 or at > SCRATCH_BYTES - 4 * MAX_BYTES:
                    return -1
                tokens[n_tokens, 0] = home
                tokens[n_tokens, 1] = at
                at = _copy(buf, name, name_end, scratch, at)
                at = _copy_value(buf, pos + 1, value_end, scratch, at)
                tokens[n_tokens, 2] = tokens[n_tokens, 3] = at - tokens[n_tokens, 1]
                numbers[n_tokens] = 1.0
                n_tokens += 1
                pos = _skip_blank(buf, value_end + 1, end)
                if pos < end and buf[pos] == 0x2C:
                    pos = _skip_blank(buf, pos + 1, end)
                    continue
                if pos < end and buf[pos] == 0x5D:
                    break
                return -1
            pos = _skip_blank(buf, pos + 1, end)
            continue
        else:
            number, pos = _number(buf, pos, end)
            if pos < 0:
                return -1
        tokens[n_tokens, 3] = at - tokens[n_tokens, 1]
        numbers[n_tokens] = number
        n_tokens += 1
        pos = _skip_blank(buf, pos, end)
    if not closed or pos != end:
        return -1
    return _emit(work, n_spaces, n_tokens, letters, idx, val, out)


@njit(cache=True, nogil=True)
def _emit(work, n_spaces, n_tokens, letters, idx, val, out):  # type: ignore[no-untyped-def]
    """Sort by namespace, then name (the canonical order), refuse names that stand twice, hash."""
    scratch, spaces, tokens, numbers = work
    for s in range(n_spaces):
        spaces[s, 2] = murmur3_span(scratch, spaces[s, 0], spaces[s, 1], np.uint32(0))
        rank = 0
        for o in range(n_spaces):
            order = _compare(scratch, spaces[o, 0], spaces[o, 1], spaces[s, 0], spaces[s, 1])
            if order < 0:
                rank += 1
            elif order == 0 and o != s:
                return -1
        spaces[s, 3] = rank
    order_of = tokens[:, 4]
    for t in range(n_tokens):
        place = t
        rank = spaces[tokens[t, 0], 3]
        while place > 0:
            before = order_of[place - 1]
            other = spaces[tokens[before, 0], 3]
            if other < rank:
                break
            if other == rank:
                order = _compare(scratch, tokens[before, 1], tokens[before, 2], tokens[t, 1], tokens[t, 2])
                if order < 0:
                    break
                if order == 0:
                    return -1
            order_of[place] = before
            place -= 1
        order_of[place] = t
    n = 0
    for k in range(n_tokens):
        t = order_of[k]
        if numbers[t] == 0.0:
            continue
        s = tokens[t, 0]
        letters[out + n] = scratch[spaces[s, 0]]
        idx[out + n] = murmur3_span(scratch, tokens[t, 1], tokens[t, 3], np.uint32(spaces[s, 2]))
        val[out + n] = numbers[t]
        n += 1
    return n


@njit(cache=True, nogil=True)
def new_work():  # type: ignore[no-untyped-def]
    """Room for `hash_object` to work in; one for each thread that calls it."""
    return (
        np.empty(SCRATCH_BYTES, np.uint8),
        np.empty((MAX_SPACES, 4), np.int64),
        np.empty((MAX_TOKENS, 5), np.int64),
        np.empty(MAX_TOKENS, np.float32),
    )


@njit(cache=True, nogil=True)
def _close_row(row_segment, segment_start, segment_letter, letters, rows, segments, features, n):  # type: ignore[no-untyped-def]
    """Segments of the ``n`` features just written at ``features``."""
    last = -1
    for i in range(features, features + n):
        if letters[i] != last:
            last = int(letters[i])
            segment_letter[segments] = letters[i]
            segment_start[segments] = i
            segments += 1
    # The next row begins here, so a reader of this row never sees this entry change.
    segment_start[segments] = features + n
    row_segment[rows + 1] = segments
    return rows + 1, segments, features + n


@njit(cache=True, nogil=True)
def add_many(  # type: ignore[no-untyped-def]
    text, text_end, names, name_end, traits, work,
    row_segment, segment_start, segment_letter, letters, idx, val,
    rows, segments, features, out,
):  # fmt: skip
    left = 0
    for i in range(len(out)):
        start, stop = text_end[i], text_end[i + 1]
        n = -1
        if stop > start:
            n = hash_object(
                text, start, stop, names, name_end[i], name_end[i + 1], np.bool_(False), traits, work,
                letters, idx, val, features,
            )  # fmt: skip
        if n < 0:
            out[i] = -1
            left += 1
            continue
        out[i] = rows
        rows, segments, features = _close_row(
            row_segment, segment_start, segment_letter, letters, rows, segments, features, n
        )
    return rows, segments, features, left


@njit(cache=True, nogil=True)
def add_hashed(  # type: ignore[no-untyped-def]
    new_letters, new_idx, new_val,
    row_segment, segment_start, segment_letter, letters, idx, val,
    rows, segments, features,
):  # fmt: skip
    n = len(new_idx)
    for i in range(n):
        letters[features + i] = new_letters[i]
        idx[features + i] = new_idx[i]
        val[features + i] = new_val[i]
    return _close_row(row_segment, segment_start, segment_letter, letters, rows, segments, features, n)
