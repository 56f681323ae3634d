"""What is run by hand: the ablation, digests of every op's results. Nothing in ``amt`` imports from here."""
