"""How the embedded models were made, runnable again: data, CLIP, VQGAN, DALL-E, evaluation. Commands: `train`."""
