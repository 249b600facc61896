"""Questions asked of a trained model, one file each."""
