"""Delta codecs: a payload written as a change to its base.

- `vcdiff`: RFC 3284 between any bytes, by xdelta3's compiled engine or in pure Python.
- `json_patch`: RFC 6902 between JSON values.
"""
