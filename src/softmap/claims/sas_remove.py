"""Which parts can go."""

from softmap.claims._bases import ONE_CARD, PAPER_SAS, SMALL
from softmap.claims._claim import NEAR, Arm, Claim, Trained, on

_TRAINABLE = "sas(value=linear,first_value=linear,output=linear)"
_SHAPED = "sas(attention_skip=1,mlp_gain=1,value=linear,first_value=linear,output=linear)"
_STUDY = Trained(
    NEAR,
    (
        Arm("transformer++(attention_skip=0)", "higher", label="no attention skip"),
        Arm(_SHAPED, "at most", label="shaped attention in a Pre-LN block"),
        Arm(_TRAINABLE, label="sas with trainable V and P"),
        Arm("v-skipinit"),
        Arm("sas", "at most"),
        Arm("sas", "at most", against="sas with trainable V and P"),
        Arm("sas-p", "at most"),
        Arm("sas(norms=first)", "higher", label="sas without norms"),
        Arm("sas-p(norms=first)", "higher", label="sas-p without norms"),
    ),
)

CLAIM = Claim(
    sentence="Attention skip, values and projections, and the MLP skip can go, if attention is "
    "shaped; the norms should stay.",
    paper="Simplifying Transformer Blocks, section 4",
    source="https://arxiv.org/abs/2311.01906",
    theirs="V and P the identity 1.178, trainable 1.194",
    hypothesis="Beside Transformer++: without attention skip alone higher; shaped attention, SAS "
    "and SAS-P no higher by 0.03 nats; without norms higher. SAS no higher than SAS with trainable "
    "values and projections.",
    protocol="Eight rows of removals. A row counts as higher if more of its runs diverge than not.",
    scales={
        "cpu": on(_STUDY, SMALL),
        "gpu": on(_STUDY, ONE_CARD),
        "paper": on(_STUDY, PAPER_SAS),
    },
)
