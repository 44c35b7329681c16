"""A trained adapter at work: from its directory to samples and answers, without Ray."""
