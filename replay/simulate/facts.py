"""What is publicly known of how short videos are watched: the few numbers that the simulated world is fitted to.

Source: KuaiRand (Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed
Videos", CIKM 2022; CC BY-SA 4.0), as aggregates over the whole log of KuaiRand-27K and over the video table of
KuaiRand-Pure. No row of the data is here or anywhere in this project.
"""

from __future__ import annotations

from typing import Final

#: Of videos inserted at random into the feed, this share was played validly (1,186,059 exposures).
VALID_PLAYS: Final = 0.1762
#: The same for each video alone, over its exposures (about 160): the median and the 90th percentile.
VALID_PLAYS_OF_A_VIDEO: Final = (0.161, 0.303)
#: A play is valid from so many seconds on, or to the end of a shorter video.
VALID_FROM_S: Final = 7.0
#: Length of a video in seconds: the median and the 90th percentile.
LENGTH_S: Final = (26.97, 168.9)
#: Shares of videos with 0, 1, 2 and 3 tags, of 46 tags in all.
TAGS_A_VIDEO: Final = (0.031, 0.730, 0.233, 0.006)
N_TAGS: Final = 46
#: Share of the most frequent tag, and of the ten most frequent, among all tags given.
FREQUENT_TAGS: Final = (0.155, 0.646)
#: A break of half an hour ends a session; sessions of a viewer in 31 days: the mean, median and 90th percentile.
SESSIONS: Final = (150.2, 149.0, 241.0)
DAYS: Final = 31.0
#: Videos shown to a viewer in these days: the median and the 90th percentile; and the mean of a session.
SHOWN: Final = (8_594.0, 24_587.0)
SHOWN_A_SESSION: Final = 78.6
#: Of the pauses within a session, these shares lie between these seconds. (Impressions that were logged within
#: one second came with one request, and are not counted here.)
PAUSE_EDGES_S: Final = (1.0, 10.0, 60.0, 300.0, 1_800.0)
PAUSES: Final = (0.101, 0.345, 0.409, 0.145)
#: Of the breaks between sessions, this share is shorter than two hours.
BREAKS_UNDER_2_H: Final = 0.537
#: Videos shown, by the hour of the day; sums to 1.
HOURS: Final = (
    0.0330, 0.0201, 0.0128, 0.0090, 0.0081, 0.0115, 0.0213, 0.0309, 0.0358, 0.0402, 0.0448, 0.0479,
    0.0528, 0.0532, 0.0480, 0.0489, 0.0515, 0.0544, 0.0585, 0.0617, 0.0661, 0.0686, 0.0678, 0.0531,
)  # fmt: skip
