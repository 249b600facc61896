"""Questions put to a trained model, one file each."""
