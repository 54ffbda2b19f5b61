"""The label tables of NSD's thirteen atlases, and how their files are written.

Numbers and names of the visual atlases are NSD's (NSD Data Manual, "ROIs"; Glasser et al. 2016 for
HCP_MMP1). Of MTL, thalamus and corticalsulc only the kind of region is NSD's; names and numbers
here are an assumption, which costs nothing as long as programs read the table.
"""

from __future__ import annotations

from pathlib import Path

from nbutils.miniature.anatomy import TABLES as MINIATURE

HCP_NAMES = (
    *"""V1 MST V6 V2 V3 V4 V8 4 3b FEF PEF 55b V3A RSC POS2 V7 IPS1 FFC V3B LO1 LO2 PIT MT A1 PSL
    SFL PCV STV 7Pm 7m POS1 23d v23ab d23ab 31pv 5m 5mv 23c 5L 24dd 24dv 7AL SCEF 6ma 7Am 7Pl 7PC
    LIPv VIP MIP 1 2 3a 6d 6mp 6v p24pr 33pr a24pr p32pr a24 d32 8BM p32 10r 47m 8Av 8Ad 9m 8BL 9p
    10d 8C 44 45 47l a47r 6r IFJa IFJp IFSp IFSa p9-46v 46 a9-46v 9-46d 9a 10v a10p 10pp 11l 13l
    OFC 47s LIPd 6a i6-8 s6-8 43 OP4 OP1 OP2-3 52 RI PFcm PoI2 TA2 FOP4 MI Pir AVI AAIC FOP1 FOP3
    FOP2 PFt AIP EC""".split(),
    "PreS",  # codespell:ignore pres
    *"""H ProS PeEc STGa PBelt A5 PHA1 PHA3 STSda STSdp STSvp TGd TE1a TE1p TE2a
    TF TE2p PHT PH TPOJ1 TPOJ2 TPOJ3 DVT PGp IP2 IP1 IP0 PFop PF PFm PGi PGs V6A VMV1 VMV3 PHA2
    V4t FST V3CD LO3 VMV2 31pd 31a VVC 25 s32 pOFC PoI1 Ig FOP5 p10p p47r TGv MBelt LBelt A4 STSva
    TE1m PI a32pr p24""".split(),
)
IT_PARCELS = ("FFC", "PHA1", "PHA3", "TE1p", "TE2p", "VMV3", "PHA2", "VMV2", "VVC")
"""The nine parcels whose noise ceiling is published as IT's."""
EARLY = MINIATURE["prf-visualrois"]
_SHARED = (
    *("nsdgeneral", "prf-visualrois", "prf-eccrois"),
    *("floc-faces", "floc-bodies", "floc-places", "floc-words", "streams"),
)
TABLES: dict[str, tuple[str, ...]] = {
    **{name: MINIATURE[name] for name in _SHARED},
    "Kastner2015": (
        *EARLY,
        *("VO1", "VO2", "PHC1", "PHC2", "TO2", "TO1", "LO2", "LO1", "V3B", "V3A"),
        *("IPS0", "IPS1", "IPS2", "IPS3", "IPS4", "IPS5", "SPL1", "FEF"),
    ),
    "HCP_MMP1": HCP_NAMES,
    "MTL": ("ERC", "area35", "area36", "PHC", "subiculum", "CA1", "CA2", "CA3", "DG", "tail"),
    "thalamus": ("LGN", "SC", "vPulv", "dlPulv", "dmPulv"),
    "corticalsulc": ("CalcS", "POS", "CoS", "OTS", "IPS", "STS", "CS"),
}


def write_table(path: Path, names: tuple[str, ...]) -> None:
    """Write a label table as NSD's are: ``0 Unknown`` first, tabs and blanks at the line ends."""
    lines = [f"{number} {name}\t    \n" for number, name in enumerate(("Unknown", *names))]
    path.write_text("".join(lines), encoding="utf-8")
