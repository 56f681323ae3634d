"""Pictures of hands and objects: what ``amt.infer`` writes, and the pictures of a training run."""
