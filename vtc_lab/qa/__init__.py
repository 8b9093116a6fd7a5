"""Questions about videos: samples, readers of benchmarks, scoring, and a language model as judge."""
