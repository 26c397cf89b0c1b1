"""The laboratory: the only place where masks and labels meet.

Nothing is imported here, so that a worker process which decodes images does not pay for torch.
"""
