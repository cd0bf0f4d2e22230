"""The three commands: `dlcv-infer`, `dlcv-train`, `dlcv-export`. They parse, call one function, print."""
