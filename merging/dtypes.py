"""Element types: safetensors' names, torch's types, and which of them are merged."""

import torch

from campaigns.pools import Dtype

TORCH_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""The safetensors types that can be read; others (packed 4-bit floats, complex) are refused by name."""

RECIPE_DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

MERGED: dict[str, Dtype] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Tensors of these types are merged, through float32."""

COPIED = frozenset({"I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL"})
"""Tensors of these types (position ids and other buffers) are taken from the template as they are."""

SAFETENSORS_NAMES: dict[Dtype, str] = {dtype: name for name, dtype in MERGED.items()}
