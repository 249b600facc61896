"""``softmap graft``: puts edits into a trained model, and fine-tunes it beside the unchanged
model.
"""
