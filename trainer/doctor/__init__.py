"""Where every rank of a run is, and which of them holds it up: `python -m trainer.doctor RUN_DIR`.

Each rank notes where it is in plain stores (`trainer.whereabouts`); a thread of it (`recorder`) writes that
to `run_dir`/ranks once a second, with the numbers of its collectives from PyTorch's flight recorder. `record`
is what is written, `sight` what is seen of the processes behind it, `diagnose` a pure function of both.
"""
