"""How OpenMP's threads wait for work. The variables are read when torch is loaded, so this comes first."""

import os


def wait_briefly() -> None:
    """Let waiting threads spin for some 0.1 ms, and then sleep, unless the user's environment says otherwise.

    Threads that sleep at once have to be woken for each of a model's small operators, so a step takes up to a fifth
    longer. Threads that spin for long slow each other down as soon as the machine does anything else: a step of a small
    model then took 6 s instead of 0.5 s.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        # Libraries that do not know the second variable follow the first one.
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
