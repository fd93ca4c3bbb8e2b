"""Which figures does `facespec figures` draw? Every file in ``Results/figures``, with what it shows; no imports."""

from __future__ import annotations

# file name without its suffix: what is drawn; each is written as PDF and as PNG
FIGURES = {
    "figure_1": "Overview of 1B, 1C, S1A and S1B.",
    "figure_1B": "Both tasks decoded from the frozen single-task networks, on probe faces.",
    "figure_1C": "Accuracy of the fine-tuned single-task and joint networks, on probe faces.",
    "figure_S1A": "Both tasks decoded from the frozen single-task networks, on faces of their training roles.",
    "figure_S1B": "Accuracy of single-task and joint networks before fine-tuning, on faces of their training roles.",
    "figure_2": "Overview of 2A to 2D.",
    "figure_2A": "Mean heatmaps of every network and task, and of an untrained network, over the mean face.",
    "figure_2B": "Distribution of the mean heatmaps' values, as boxes.",
    "figure_2C": "Overlap of mean heatmaps: of two tasks, of two networks, and of two classes.",
    "figure_2D": "Heatmaps of single faces, one per expression.",
    "figure_3": "Preferred stimuli of units of the joint network: the optimised picture beside the best face.",
    "figure_S2B": "Responses of units to their preferred stimuli, to their best faces and to random pictures.",
    "figure_contrasts": "Differences between two networks' heatmaps, cell by cell.",
    "figure_recall": "Recall of every expression: on the training role, on the probe before and after fine-tuning.",
    "figure_regions": "Share of the heatmaps' mass in each region of the face, by expression.",
    "figure_groundtruth": "Which pixels carry expression and identity in embedded faces; how well heatmaps match.",
    "figure_calibration": "What networks name a face by, what needs no network, and which expressions are confused.",
    "figure_battery": "What manipulated faces cost each network beside people, and what single action units show.",
    "figure_depth": "Layer by layer: decoding, units specific to a task, effect sizes, similarity of networks.",
    "figure_geometry": "Layer by layer: how much of one task's variance lies in the directions of the other.",
    "figure_lesions": "Accuracy lost in both tasks when units that one needs are lesioned, also at matched damage.",
    "figure_lesion_classes": "Recall of every class under lesions, and its spread between classes.",
    "figure_lesion_classes_untrained": "The same for an untrained network, whose heads alone are fitted.",
}
