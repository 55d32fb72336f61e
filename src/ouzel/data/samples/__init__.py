"""The data set that ships with Ouzel: real, timestamped, free to pass on."""

from __future__ import annotations

from pathlib import Path


def movietweetings() -> Path:
    """Return the folder of MovieTweetings 100K: 100,000 film ratings, 2013, MIT licence.

    >>> sorted(path.name for path in movietweetings().iterdir())
    ['LICENSE', 'README.md', 'movies.dat.gz', 'ratings.dat.gz']
    """
    return Path(__file__).parent / "movietweetings-100k"
