"""What cheats look like in the network's tests: models and their cheats, made, run on real vLLM, measured, judged."""
