"""The words of the IOI task: fifteen sentence templates, names, places and objects.

The templates follow the fifteen forms of Wang et al. (2022, figure 14) in our own wording. Every template names a
place, also the two whose original has neither place nor object: so each prompt has a counterfactual with other nouns.
Slots: `first` and `second` introduce the two names, `subject` repeats one of them, and the prompt stops before the
recipient. No template starts with a name, because a name without a leading space is another token.
"""

TEMPLATES = (
    "Then, {first} and {second} walked to the {place}. {subject} gave a {object} to",
    "Then, {first} and {second} had great fun at the {place}. {subject} gave a {object} to",
    "Then, {first} and {second} were busy at the {place}. {subject} decided to give a {object} to",
    "Then, {first} and {second} were planning a trip to the {place}. {subject} wanted to give a {object} to",
    "Then, {first} and {second} quarrelled for hours at the {place}, and later {subject} said to",
    "After {first} and {second} went into the {place}, {subject} gave a {object} to",
    "When {first} and {second} found a {object} at the {place}, {subject} decided to give it to",
    "When {first} and {second} bought a {object} at the {place}, {subject} decided to give the {object} to",
    "While {first} and {second} were busy at the {place}, {subject} gave a {object} to",
    "While {first} and {second} were driving to the {place}, {subject} gave a {object} to",
    "After the lunch, {first} and {second} walked to the {place}. {subject} gave a {object} to",
    "Afterwards, {first} and {second} walked to the {place}. {subject} gave a {object} to",
    "Then, {first} and {second} had a bitter quarrel at the {place}. Afterwards {subject} said to",
    "The {place} that {first} and {second} visited had a {object}. {subject} gave it to",
    "Two friends, {first} and {second}, noticed a {object} at the {place}. {subject} gave it to",
)

# fmt: off
NAMES = (
    "Aaron", "Adam", "Alan", "Alex", "Alice", "Amy", "Andrew", "Anna", "Anthony", "Arthur", "Barbara", "Ben",
    "Bill", "Bob", "Brian", "Carl", "Carol", "Charles", "Charlie", "Chris", "Claire", "Daniel", "David", "Diana",
    "Donald", "Edward", "Elizabeth", "Emily", "Emma", "Eric", "Frank", "Fred", "Gary", "George", "Graham", "Greg",
    "Harry", "Helen", "Henry", "Howard", "Jack", "Jacob", "James", "Jane", "Jason", "Jeff", "Jennifer", "Jessica",
    "Jim", "Joe", "John", "Jonathan", "Joseph", "Josh", "Julia", "Justin", "Karen", "Kate", "Keith", "Kelly",
    "Kevin", "Larry", "Laura", "Leo", "Linda", "Lisa", "Louis", "Lucy", "Luke", "Maria", "Martin", "Mary",
    "Matthew", "Michael", "Michelle", "Mike", "Nathan", "Nick", "Nicole", "Oliver", "Oscar", "Patrick", "Paul",
    "Peter", "Philip", "Rachel", "Richard", "Robert", "Roger", "Ryan", "Sam", "Sarah", "Scott", "Simon",
    "Stephen", "Steve", "Susan", "Thomas", "Tim", "Tom", "Tony", "Victoria", "Walter", "William",
)
# fmt: on
PLACES = (
    "store",
    "garden",
    "restaurant",
    "school",
    "hospital",
    "office",
    "house",
    "station",
    "park",
    "library",
    "market",
)
OBJECTS = ("ring", "kiss", "bone", "basketball", "computer", "necklace", "drink", "snack", "book", "letter", "ticket")
