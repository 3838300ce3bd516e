"""What the benchmarks of towers are made of; bare checkpoints serve `bench_serving.py` and tests too.

models.py           the released shapes; random_vit.py, random_resnet.py and random_siglip.py write checkpoints of them
                    (clip_texts.py, random_weights.py, random_tokenizers.py)
cases.py            the kinds of work that are timed; loads.py: how much arithmetic each is
contender.py        what is asked of a way to run towers; cpu_contenders.py and cuda_contenders.py are the ways
                    (bundles.py, optimum_towers.py, torch_towers.py, torch_contender.py)
agreement.py        compares a contender with ours before it is timed
machine.py          what the machine can do at most
results.py          table and JSON
"""
