"""The small double-stream transformer between the embedded model's text encoder and autoencoder."""
