"""The laboratory: recipes, comparisons, tuning, and what they leave on disk.

``recipe`` describes a run, ``plan`` turns it into models of equal size, ``trial`` trains and
measures one of them, ``compare`` runs them all and builds the page, ``tune`` finds each variant's
peak learning rate. The model side of the package imports nothing from here.
"""

from softmap.extras import LABORATORY, need

__needs__ = need(__name__, *LABORATORY, extra="lab")
