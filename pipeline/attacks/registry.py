"""The attacks that a suite may hold: where the class of each lies. An attack is listed here to be known to every command."""

SPECS = [
    "pipeline.attacks.specs.ClassAttack",
    "pipeline.attacks.specs.MaskAttack",
    "pipeline.attacks.specs.GuidedAttack",
    "pipeline.attacks.outside.SquareAttack",
    "pipeline.attacks.outside.AutoAttack",
    "pipeline.attacks.patch_attack.PatchAttack",
]
