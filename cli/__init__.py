"""The commands dlcv-infer, dlcv-train and dlcv-export: parse, call one function, print."""
