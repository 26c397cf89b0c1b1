"""From records to a page that answers the question: a function of what a run left on the disk, without a model or a GPU."""
