"""The fixed prompts of the contact sheets."""

from __future__ import annotations

# Names of the emoji set that people know by sight: at least 36 of the 48 should be named without their captions.
KNOWN = (
    "red apple", "banana", "grapes", "strawberry", "watermelon", "pizza", "hamburger", "doughnut",
    "soft ice cream", "birthday cake", "hot beverage", "carrot", "cat face", "dog face", "lion", "elephant",
    "penguin", "fish", "butterfly", "octopus", "turtle", "snail", "owl", "rose",
    "sunflower", "evergreen tree", "cactus", "four leaf clover", "mushroom", "sun", "crescent moon", "rainbow",
    "snowman", "fire", "rocket", "automobile", "bicycle", "sailboat", "house", "guitar",
    "umbrella", "key", "crown", "light bulb", "soccer ball", "red heart", "ghost", "jack-o-lantern",
)  # fmt: skip

# No emoji of the set is called or drawn like these: colours that things do not have, things together, counts.
NOVEL = (
    "a blue banana", "a purple car", "a yellow elephant", "a pink rocket", "a green house", "a blue apple",
    "an orange umbrella", "a green guitar", "a cat in a car", "a pizza with a crown", "a penguin with an umbrella",
    "two bananas", "a house on fire", "a snowman on the moon", "a robot riding a bicycle", "a heart made of grapes",
)  # fmt: skip

FEW_KNOWN = KNOWN[:8] + KNOWN[33:37]  # for what draws slowly
FEW_NOVEL = NOVEL[:4]
