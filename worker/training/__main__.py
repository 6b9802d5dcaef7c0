"""`python -m worker.training data|clip|vqgan|dalle|eval|export`."""

from worker.training.commands import train

if __name__ == "__main__":
    train()
