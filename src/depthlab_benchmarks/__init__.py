"""Speed, measured: this project beside a plain PyTorch loop, each in processes of its own, turn by turn."""
