"""Which attention modules does a data set need? The focal heuristic as a study.

`plan` what is asked, `images` what is learned from and measured on, `networks` modules,
variants and the rule, `fit` one training, `scoring` scores and times, `statistics` means and
intervals, `report` and `figure` what is shown, `state` what is on disk, `run` the whole, which
goes on where it was.
"""
