"""Words that generated texts are made of."""

from __future__ import annotations

CITIES = (
    "Accra", "Adelaide", "Ankara", "Antwerp", "Athens", "Bamako", "Bergen", "Bern", "Bogota",
    "Boston", "Bremen", "Brno", "Cairo", "Calgary", "Cardiff", "Casablanca", "Cordoba", "Cusco",
    "Dakar", "Dallas", "Delft", "Denver", "Dresden", "Dublin", "Durban", "Florence", "Gdansk",
    "Geneva", "Ghent", "Glasgow", "Granada", "Graz", "Hanoi", "Havana", "Helsinki", "Houston",
    "Izmir", "Jaipur", "Kyoto", "Lagos", "Leipzig", "Leuven", "Lima", "Lisbon", "Ljubljana",
    "London", "Lyon", "Madrid", "Malmo", "Medellin", "Melbourne", "Milan", "Montreal", "Nairobi",
    "Nantes", "Naples", "Osaka", "Oslo", "Ottawa", "Oxford", "Palermo", "Paris", "Porto", "Prague",
    "Quito", "Riga", "Rome", "Seville", "Tallinn",
)  # fmt: skip
PEOPLE = (
    "Ada", "Alan", "Anna", "Ben", "Carla", "Chen", "Clara", "Dario", "Elif", "Emma", "Erik",
    "Fatima", "Felix", "Grace", "Hana", "Hugo", "Ines", "Ivan", "Jonas", "Julia", "Karim", "Lena",
    "Leo", "Lucia", "Mara", "Marco", "Mina", "Nadia", "Noah", "Nora", "Olga", "Omar", "Otto",
    "Paula", "Pedro", "Rosa", "Samir", "Sara", "Sven", "Tara", "Tomas", "Uma", "Vera", "Yuki",
)  # fmt: skip
OBJECTS = {
    "animal": ("dog", "cat", "horse", "goat", "rabbit", "duck", "sheep", "donkey"),
    "fruit": ("apple", "pear", "plum", "cherry", "banana", "peach", "lemon", "grape"),
    "tool": ("hammer", "saw", "drill", "wrench", "shovel", "chisel", "axe", "rake"),
    "vehicle": ("car", "truck", "bicycle", "tram", "boat", "bus", "scooter", "van"),
    "instrument": ("piano", "violin", "flute", "drum", "guitar", "harp", "trumpet", "cello"),
}
USES = {
    "hammer": "hit nails", "saw": "cut wood", "drill": "make holes", "shovel": "dig",
    "piano": "play music", "boat": "cross water", "bus": "carry people", "axe": "split logs",
}  # fmt: skip
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "grey", "brown")
