"""Published results as data, with where they come from.

They are shown for orientation and apart from results on the miniature world: other images, other
brains, other networks. Between papers, too, sessions, distractors, layers, image sizes and SSIM
differ (see `CAUTION`), so only rows of one table compare.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

CAUTION = (
    "37 or 40 sessions (982 or 1000 test images); distractors ground truths (Brain-Diffuser, "
    "MindEye) or other reconstructions (Takagi & Nishimoto); AlexNet, Inception and EfficientNet "
    "at other sizes, layers or weights; SSIM by columns or in two dimensions, depending on the "
    "version of scikit-image."
)

IMAGE_COLUMNS = (
    "PixCorr", "SSIM", "AlexNet(2)", "AlexNet(5)", "Inception", "CLIP", "EffNet-B", "SwAV",
)  # fmt: skip
"""The eight measures; two-way identification in percent, EffNet-B and SwAV are distances."""

CAPTION_COLUMNS = ("METEOR", "ROUGE-1", "ROUGE-L", "CLIP")

_ = None


@dataclass(frozen=True)
class PublishedTable:
    """One table of results.

    Parameters
    ----------
    title : what the table shows
    columns : measures
    rows : method -> one number per column, None where the source has none
    source : paper and table
    note : how the numbers came to us, and what to beware of
    """

    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]
    source: str
    note: str = ""

    def __post_init__(self) -> None:
        wrong = [name for name, row in self.rows.items() if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(
                f"{self.title}: row {wrong[0]!r} does not fit {len(self.columns)} columns."
            )

    def to_frame(self) -> pd.DataFrame:
        """The table as a DataFrame with title, source and note in ``attrs``."""
        frame = pd.DataFrame.from_dict(
            self.rows, orient="index", columns=list(self.columns), dtype=float
        )
        frame.attrs.update(title=self.title, source=self.source, note=self.note)
        return frame


_UNIBRAIN = "Mai & Zhang 2023, arXiv 2308.07428"
_BRAIN_DIFFUSER = "Ozcelik & VanRullen 2023, Scientific Reports 13:15666"
_TAKAGI = "Takagi & Nishimoto 2023, CVPR"
_MINDEYE2 = "Scotti et al. 2024, arXiv 2403.11207"
_MINDDIFFUSER = "Lu et al. 2023, arXiv 2303.14139"

TABLES: dict[str, PublishedTable] = {
    "unibrain_images": PublishedTable(
        "UniBrain, images, mean of subjects 1, 2, 5, 7", IMAGE_COLUMNS,
        {
            "Mind-Reader": (_, _, _, _, 78.2, _, _, _),
            "IC-GAN": (.150, .325, _, _, _, _, .862, .465),
            "Takagi SD": (_, _, 81.4, 81.5, 76.0, 77.0, _, _),
            "Takagi SD+T": (_, _, 85.2, 91.4, 85.8, 84.1, _, _),
            "Takagi SD+T+G": (_, _, 88.0, 92.9, 86.4, 85.3, _, _),
            "Takagi SD+T+G+D": (_, _, 85.8, 92.1, 84.3, 86.6, _, _),
            "UniBrain": (.249, .330, 92.9, 95.6, 87.8, 92.3, .766, .407),
        },
        f"{_UNIBRAIN}, table 1", "Read off the printed table. Brain-Diffuser is absent from it.",
    ),
    "unibrain_captions": PublishedTable(
        "UniBrain, captions", CAPTION_COLUMNS,
        {
            "Ridge-LSTM (GOD data)": (_, _, _, 46.4),
            "PT-LDM": (_, _, .197, _),
            "CNN-Transformer": (_, _, .201, _),
            "UniBrain": (.169, .245, .222, 85.3),
        },
        f"{_UNIBRAIN}, table 2",
        "Read off the printed table. CLIP in percent, its definition not known to us; two-way "
        "identification in CLIP's text space is the plausible reading.",
    ),
    "unibrain_image_ablation": PublishedTable(
        "UniBrain, images, subject 1: which inputs are used", IMAGE_COLUMNS,
        {
            "only Z_I": (.376, .419, 86.6, 76.2, 54.7, 53.2, .993, .674),
            "only C_T": (.015, .209, 63.3, 78.8, 76.1, 83.7, .872, .598),
            "only C_I": (.089, .289, 83.0, 92.6, 86.3, 91.5, .800, .436),
            "without Z_I": (.062, .289, 83.3, 92.7, 86.4, 92.7, .778, .424),
            "without C_T": (.270, .324, 94.3, 96.8, 87.5, 91.4, .787, .420),
            "without C_I": (.331, .363, 91.3, 92.6, 84.9, 86.9, .811, .460),
            "UniBrain": (.299, .342, 95.4, 96.9, 89.0, 93.0, .757, .396),
        },
        f"{_UNIBRAIN}, ablation of images", "Read off the printed table.",
    ),
    "unibrain_caption_ablation": PublishedTable(
        "UniBrain, captions, subject 1: which inputs are used", CAPTION_COLUMNS,
        {
            "only Z_T": (.185, .262, .233, 77.2),
            "only C_T": (.118, .218, .208, 67.7),
            "only C_I": (.128, .178, .157, 82.8),
            "without Z_T": (.161, .234, .209, 84.9),
            "without C_T": (.136, .192, .169, 83.4),
            "without C_I": (.113, .214, .205, 68.0),
            "UniBrain": (.170, .247, .225, 86.1),
        },
        f"{_UNIBRAIN}, ablation of captions",
        "Read off the printed table. 'only Z_T' is above the full system on three measures.",
    ),
    "brain_diffuser_images": PublishedTable(
        "Brain-Diffuser, images", IMAGE_COLUMNS,
        {
            "mean of subjects 1, 2, 5, 7": (.254, .356, 94.2, 96.2, 87.2, 91.5, .775, .423),
            "subject 1": (.305, .367, _, _, 87.8, 92.5, .768, .415),
            "subject 1, only VDVAE": (.358, .437, _, _, 77.0, 71.1, .906, .581),
            "subject 1, without VDVAE": (.143, .302, _, _, 87.3, 92.6, _, _),
        },
        f"{_BRAIN_DIFFUSER}, tables 1 and 2",
        "Quoted from a replication's notes; missing numbers were not found. 37 sessions, 982 test "
        "images.",
    ),
    "takagi_identification": PublishedTable(
        "Takagi & Nishimoto, two-way identification, pooled over subjects",
        ("CLIP early", "CLIP middle", "CLIP late", "CNN early", "CNN middle", "CNN late"),
        {
            "z": (84, 69, 59, 82, 78, 72),
            "c": (63, 65, 74, 72, 78, 80),
            "z_c": (76, 71, 77, 81, 81, 82),
        },
        f"{_TAKAGI}, figure 5",
        "Read off bars, plus or minus one percent. Distractors are other reconstructions.",
    ),
    "minddiffuser_images": PublishedTable(
        "MindDiffuser, images, mean of subjects 1, 2, 5, 7", ("cosine of CLIP", "SSIM", "PixCorr"),
        {
            "IC-GAN": (.546, .135, .126),
            "Takagi & Nishimoto": (.642, .300, .175),
            "MindDiffuser, stage 1 only": (.597, .253, .183),
            "MindDiffuser, start from noise": (.616, .292, .066),
            "MindDiffuser": (.765, .354, .278),
        },
        f"{_MINDDIFFUSER}, table 2",
        "Read off the printed table. CLIP is a cosine of last layers, not two-way identification; "
        "the IC-GAN is Ozcelik's, not Brain-Diffuser.",
    ),
    "mindeye2_images": PublishedTable(
        "MindEye2's comparison, images, mean of subjects 1, 2, 5, 7, 40 sessions", IMAGE_COLUMNS,
        {
            "MindEye2": (.322, .431, 96.1, 98.6, 95.4, 93.0, .619, .344),
            "MindEye2, unrefined": (.278, .328, 95.2, 99.0, 96.4, 94.5, .622, .343),
            "MindEye1": (.319, .360, 92.8, 96.9, 94.6, 93.3, .648, .377),
            "Brain-Diffuser, recomputed": (.273, .365, 94.4, 96.6, 91.3, 90.9, .728, .421),
            "Takagi (+text), recomputed": (.246, .410, 78.9, 85.6, 83.8, 82.1, .811, .504),
            "MindEye2, low level only": (.399, .539, 70.5, 65.1, 52.9, 57.2, .984, .673),
            "MindEye2, 1 hour": (.195, .419, 84.2, 90.6, 81.2, 79.2, .810, .468),
        },
        f"{_MINDEYE2}, table 1", "1000 test images, EfficientNet with its second set of weights.",
    ),
    "mindeye2_ceiling": PublishedTable(
        "Ceiling: reconstructions from the features of the presented images", IMAGE_COLUMNS,
        {
            "Versatile Diffusion": (.266, .055, 97.2, 96.6, 99.4, 99.7, .487, .108),
            "SDXL unCLIP": (.676, .232, 99.8, 99.8, 99.7, 99.9, .240, .029),
        },
        f"{_MINDEYE2}, table 9",
        "From the true CLIP image embedding alone, without a start latent: no upper bound on "
        "PixCorr and SSIM for systems that also decode a layout.",
    ),
    "mindeye2_captions": PublishedTable(
        "MindEye2's comparison, captions, subject 1, against COCO captions",
        ("METEOR", "ROUGE-1", "ROUGE-L", "Sentence", "CLIP-B", "CLIP-L"),
        {
            "MindEye2": (.248, .353, .326, 47.9, 73.7, 63.8),
            "UniBrain": (.170, .247, .225, _, _, 86.1),
        },
        f"{_MINDEYE2}, table 2",
        "CLIP-B and CLIP-L are cosines in percent; UniBrain's 86.1 stands in that column but is "
        "another quantity.",
    ),
}  # fmt: skip


def find_table(name: str) -> PublishedTable:
    """Return a published table.

    Raises
    ------
    ValueError
        If there is no such table.
    """
    if name not in TABLES:
        raise ValueError(f"table={name!r}: choose from {', '.join(TABLES)}.")
    return TABLES[name]


BESIDE: dict[str, tuple[str, str]] = {
    "Brain-Diffuser": ("brain_diffuser_images", "mean of subjects 1, 2, 5, 7"),
    "UniBrain": ("unibrain_images", "UniBrain"),
    "Takagi & Nishimoto, as UniBrain quotes it": ("unibrain_images", "Takagi SD"),
    "MindDiffuser": ("minddiffuser_images", "MindDiffuser"),
    "MindEye1, as MindEye2 recomputed it": ("mindeye2_images", "MindEye1"),
    "MindEye2": ("mindeye2_images", "MindEye2"),
}
"""System -> table and row that hold its published values."""

REASONS: dict[str, tuple[str, ...]] = {
    "Brain-Diffuser": (
        "982", "presented images", "ReLU, 224 px", "224 px for all networks",
        "by columns, if made with the pinned library", "1",
    ),
    "UniBrain": (
        "not stated", "not stated", "not stated", "not stated", "not stated", "not stated",
    ),
    "Takagi & Nishimoto, as UniBrain quotes it": (
        "982", "other reconstructions", "pooling, 299 px", "299 px, CLIP 224", "none", "5",
    ),
    "MindDiffuser": (
        "982", "none: a cosine", "none", "not stated", "not stated", "1",
    ),
    "MindEye1, as MindEye2 recomputed it": (
        "1000", "presented images", "ReLU, 256 px", "256, 342, 255, 224 px", "two-dimensional",
        "best of 16, by its paper",
    ),
    "MindEye2": (
        "1000", "presented images", "ReLU, 256 px", "256, 342, 255, 224 px", "two-dimensional", "1",
    ),
}  # fmt: skip
"""System -> why its values do not compare, one entry for each of `REASON_COLUMNS`."""

REASON_COLUMNS = (
    "test images", "distractors", "AlexNet after", "image sizes", "SSIM", "reconstructions",
)  # fmt: skip


def beside() -> PublishedTable:
    """Published values of all systems in one table, for orientation only; see `reasons`."""
    rows = {}
    for system, (name, row) in BESIDE.items():
        table = TABLES[name]
        known = dict(zip(table.columns, table.rows[row], strict=True))
        rows[system] = tuple(known.get(column) for column in IMAGE_COLUMNS)
    return PublishedTable(
        "What the papers report, side by side: rows do not compare with each other, nor with ours",
        IMAGE_COLUMNS,
        rows,
        "the tables named in nbutils.metrics.published.BESIDE",
        "Neural-Recon reports no values. MindDiffuser's CLIP is a cosine (.765) and so left out.",
    )


def reasons() -> pd.DataFrame:
    """Why the rows of `beside` do not compare: one row per system, one column per difference."""
    return pd.DataFrame.from_dict(REASONS, orient="index", columns=list(REASON_COLUMNS))
