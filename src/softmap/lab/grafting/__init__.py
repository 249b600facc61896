"""``softmap graft``: edits in a trained model, fine-tuned beside the model as it is."""
