"""The names of the original study's pages of preferred stimuli (Figures 3 and S2), one file per network.

Its name for the joint network is SPLIT, for the others exp and id; every file has one page per convolution [P].
"""

from __future__ import annotations

from facespec.study.vocabulary import Network

PAGES = {
    Network.JOINT: "Fig3_and_S_Fig2_merged_SPLITConv2d.pdf",
    Network.EXPRESSION: "Fig3_and_S_Fig2_merged_expConv2d.pdf",
    Network.IDENTITY: "Fig3_and_S_Fig2_merged_idConv2d.pdf",
}
