"""The bodies of the adaptive operators, as ONNX text. What each of them means is said in ``adapass.ops``.

They are written for operator set 13 and every newer one: no axes as attributes of reductions other than
of all axes, no ``CastLike`` where a ``Where`` will do, and typed ones and zeros made from what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# A mask of the rank of `taken`: [B] -> [B, 1, ..., 1]. A scalar `taken` has no trailing axes and keeps [B].
BODIES: Mapping[str, str] = MappingProxyType(
    {
        "ExitSelect": """
<domain: "adapass", opset_import: ["" : {opset}]>
ExitSelect (stop, taken, rest) => (selected)
{{
    batch = Shape (stop)
    dims = Shape (taken)
    rank = Shape (dims)
    one = Constant <value_ints = [1]> ()
    ones = Expand (one, rank)
    end = Constant <value_ints = [9223372036854775807]> ()
    tail = Slice (ones, one, end)
    shape = Concat <axis = 0> (batch, tail)
    mask = Reshape (stop, shape)
    selected = Where (mask, taken, rest)
}}
""",
        "LogRound": """
<domain: "adapass", opset_import: ["" : {opset}]>
LogRound (x, scale, base, last) => (rounded)
{{
    share = Div (x, scale)
    tiny_float = Constant <value_float = 1e-37> ()
    tiny = CastLike (tiny_float, x)
    positive = Max (share, tiny)
    octave = Log (base)
    height = Log (positive)
    height_in_steps = Div (height, octave)
    depth = Neg (height_in_steps)
    code = Round (depth)
    zero = Sub (scale, scale)
    stored = Clip (code, zero, last)
    height_stored = Mul (stored, octave)
    depth_stored = Neg (height_stored)
    power = Exp (depth_stored)
    restored = Mul (power, scale)
    is_zero = Greater (code, last)
    rounded = Where (is_zero, zero, restored)
}}
""",
        "SelectTokens": """
<domain: "adapass", opset_import: ["" : {opset}]>
SelectTokens (score, count) => (kept, valid)
{{
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    start = Constant <value_ints = [1]> ()
    end = Constant <value_ints = [2]> ()
    dims = Shape (score)
    tokens = Slice (dims, start, end)
    counts_and_one = Concat <axis = 0> (count, start)
    most = ReduceMax <keepdims = 1> (counts_and_one)
    places = Min (most, tokens)
    best, kept = TopK <axis = 1, largest = 1, sorted = 1> (score, places)
    end_of_row = Squeeze (places)
    place = Range (zero, end_of_row, one)
    row_count = Unsqueeze (count, start)
    valid = Less (place, row_count)
}}
""",
        "GatherTokens": """
<domain: "adapass", opset_import: ["" : {opset}]>
GatherTokens (x, kept) => (y)
{{
    last = Constant <value_ints = [2]> ()
    index = Unsqueeze (kept, last)
    y = GatherND <batch_dims = 1> (x, index)
}}
""",
        "ScatterTokens": """
<domain: "adapass", opset_import: ["" : {opset}]>
ScatterTokens (rest, kept, valid, y) => (z)
{{
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    first = Constant <value_ints = [0]> ()
    second = Constant <value_ints = [1]> ()
    last = Constant <value_ints = [2]> ()
    end = Constant <value_ints = [9223372036854775807]> ()
    place = Unsqueeze (kept, last)
    before = GatherND <batch_dims = 1> (rest, place)
    dims = Shape (before)
    grid = Slice (dims, first, last)
    all_valid = Expand (valid, grid)
    rank = Shape (dims)
    ones = Expand (second, rank)
    tail = Slice (ones, last, end)
    mask_shape = Concat <axis = 0> (grid, tail)
    mask = Reshape (all_valid, mask_shape)
    after = Where (mask, y, before)
    samples = Slice (grid, first, second)
    sample_count = Squeeze (samples)
    sample = Range (zero, sample_count, one)
    sample_column = Unsqueeze (sample, second)
    sample_grid = Expand (sample_column, grid)
    sample_index = Unsqueeze (sample_grid, last)
    index = Concat <axis = 2> (sample_index, place)
    z = ScatterND (rest, index, after)
}}
""",
        "MergeTokens": """
<domain: "adapass", opset_import: ["" : {opset}]>
MergeTokens (x, key, size, kept, valid, takes) => (y, total)
{{
    zero_int = Constant <value_int = 0> ()
    one_int = Constant <value_int = 1> ()
    first = Constant <value_ints = [0]> ()
    second = Constant <value_ints = [1]> ()
    third = Constant <value_ints = [2]> ()
    end = Constant <value_ints = [3]> ()
    any_size = ReduceMax <keepdims = 0> (size)
    zero = Sub (any_size, any_size)
    one = Exp (zero)
    minus_one = Sub (zero, one)
    too_far = Sub (minus_one, one)
    squares = Mul (key, key)
    square = ReduceSum <keepdims = 1> (squares, third)
    length = Sqrt (square)
    is_null = Equal (length, zero)
    divisor = Where (is_null, one, length)
    direction = Div (key, divisor)
    place = Unsqueeze (kept, third)
    directions_kept = GatherND <batch_dims = 1> (direction, place)
    targets = Transpose <perm = [0, 2, 1]> (directions_kept)
    cosine = MatMul (direction, targets)
    takes_row = Unsqueeze (takes, second)
    cosine_open = Where (takes_row, cosine, too_far)
    nearest = ArgMax <axis = 2, keepdims = 1> (cosine_open)
    dims = Shape (cosine)
    token_dim = Slice (dims, second, third)
    place_dim = Slice (dims, third, end)
    token_count = Squeeze (token_dim)
    place_count = Squeeze (place_dim)
    tokens = Range (zero_int, token_count, one_int)
    places = Range (zero_int, place_count, one_int)
    token_column = Unsqueeze (tokens, second)
    is_nearest = Equal (nearest, places)
    goes = And (is_nearest, takes_row)
    kept_row = Unsqueeze (kept, second)
    is_there = Equal (token_column, kept_row)
    valid_row = Unsqueeze (valid, second)
    stays_at = And (is_there, valid_row)
    stays_counted = Cast <to = 7> (stays_at)
    stays_count = ReduceSum <keepdims = 1> (stays_counted, third)
    stays = Greater (stays_count, zero_int)
    leaves = Not (stays)
    goes_away = And (leaves, goes)
    belongs = Or (stays_at, goes_away)
    size_column = Unsqueeze (size, third)
    weight = Where (belongs, size_column, zero)
    total = ReduceSum <keepdims = 0> (weight, second)
    is_empty = Equal (total, zero)
    total_or_one = Where (is_empty, one, total)
    weight_turned = Transpose <perm = [0, 2, 1]> (weight)
    summed = MatMul (weight_turned, x)
    total_column = Unsqueeze (total_or_one, third)
    y = Div (summed, total_column)
}}
""",
        # Names inside the next three occur in no other body: those above are inlined later, into branches
        # that see the names around them.
        "LiveRows": """
<domain: "adapass", opset_import: ["" : {opset}]>
LiveRows (live) => (rows)
{{
    live_all_in_one = Constant <value_ints = [-1]> ()
    live_first = Constant <value_ints = [0]> ()
    live_flat = Reshape (live, live_all_in_one)
    live_index = NonZero (live_flat)
    rows = Squeeze (live_index, live_first)
}}
""",
        "GatherRows": """
<domain: "adapass", opset_import: ["" : {opset}]>
GatherRows (x, rows) => (y)
{{
    taken_all_in_one = Constant <value_ints = [-1]> ()
    taken_third = Constant <value_ints = [2]> ()
    taken_end = Constant <value_ints = [3]> ()
    taken_dims = Shape (x)
    taken_width = Slice (taken_dims, taken_third, taken_end)
    taken_flat_dims = Concat <axis = 0> (taken_all_in_one, taken_width)
    taken_flat = Reshape (x, taken_flat_dims)
    y = Gather <axis = 0> (taken_flat, rows)
}}
""",
        "ScatterRows": """
<domain: "adapass", opset_import: ["" : {opset}]>
ScatterRows (rest, rows, y) => (z)
{{
    put_all_in_one = Constant <value_ints = [-1]> ()
    put_second = Constant <value_ints = [1]> ()
    put_third = Constant <value_ints = [2]> ()
    put_end = Constant <value_ints = [3]> ()
    put_dims = Shape (rest)
    put_width = Slice (put_dims, put_third, put_end)
    put_flat_dims = Concat <axis = 0> (put_all_in_one, put_width)
    put_flat = Reshape (rest, put_flat_dims)
    put_index = Unsqueeze (rows, put_second)
    put_flat_z = ScatterND (put_flat, put_index, y)
    z = Reshape (put_flat_z, put_dims)
}}
""",
    }
)
