"""The words of the IOI task: 44 sentence templates, names, places and objects.

The first fifteen templates follow the forms of Wang et al. (2022, figure 14) in our own wording; the others vary verb,
opening and tense, so that each half has 22 and intervals can resample templates. Every template names a place, also
those whose original has neither place nor object: so each prompt has a counterfactual with other nouns.
Prompts of calibration have other names (`NAMES`) than those that are scored (`SCORED_NAMES`).
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
    "Yesterday, {first} and {second} met at the {place}. {subject} handed a {object} to",
    "Before {first} and {second} left the {place}, {subject} handed a {object} to",
    "Last week, {first} and {second} worked at the {place}, where {subject} showed a {object} to",
    "As {first} and {second} waited outside the {place}, {subject} passed a {object} to",
    "On Monday, {first} and {second} stayed late at the {place}. {subject} then sent a {object} to",
    "Once {first} and {second} reached the {place}, {subject} brought a {object} to",
    "In the morning, {first} and {second} opened the {place}, and {subject} threw a {object} to",
    "Because {first} and {second} had no money left at the {place}, {subject} lent a {object} to",
    "At the {place}, {first} and {second} sat down to rest. After a while {subject} offered a {object} to",
    "Every summer {first} and {second} returned to the {place}, and each time {subject} sold a {object} to",
    "The owner of the {place} knew that {first} and {second} shared a {object}, so {subject} had to return it to",
    "Long after {first} and {second} had closed the {place}, {subject} mailed a {object} to",
    "Near the {place}, {first} and {second} discovered a {object}, and {subject} quickly handed it to",
    "Outside the {place}, {first} and {second} were playing with a {object} until {subject} threw it to",
    "Since {first} and {second} could not agree about the {place}, {subject} wrote a long note to",
    "During the party at the {place}, {first} and {second} danced, and later {subject} whispered something to",
    "Although {first} and {second} were tired after a day at the {place}, {subject} still gave a {object} to",
    "Whenever {first} and {second} met at the {place}, {subject} gave a small {object} to",
    "It was raining when {first} and {second} came back from the {place}, so {subject} offered a {object} to",
    "People at the {place} saw that {first} and {second} were friends, because {subject} always gave a {object} to",
    "That evening {first} and {second} cleaned the {place} together. {subject} promised a {object} to",
    "Soon after {first} and {second} moved to the {place}, {subject} showed an old {object} to",
    "Inside the {place}, {first} and {second} looked at a {object}. {subject} described it to",
    "Earlier today {first} and {second} argued about a {object} at the {place}. {subject} has now returned it to",
    "For years {first} and {second} ran the {place}. In the end {subject} left everything to",
    "Just as {first} and {second} were leaving the {place}, {subject} passed the {object} to",
    "With great care {first} and {second} carried a {object} out of the {place}, and {subject} left it to",
    "Now that {first} and {second} own the {place}, {subject} wants to teach everything to",
    "Somebody told me that {first} and {second} quarrelled at the {place}, and that {subject} never again spoke to",
)

FORMS = 15
"""The first so many templates: the forms of the paper."""

# fmt: off
NAMES = (  # of calibration
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
SCORED_NAMES = (
    "Ada", "Adrian", "Agnes", "Ahmed", "Alexandra", "Alison", "Allison", "Amanda", "Andre", "Anne", "Anton", "Ashley",
    "Benny", "Beth", "Blake", "Bobby", "Brad", "Brent", "Brett", "Calvin", "Cameron", "Casey", "Cecil", "Christina",
    "Claude", "Clayton", "Clifford", "Conrad", "Curtis", "Daisy", "Diane", "Diego", "Doug", "Douglas", "Duncan",
    "Dwight", "Edith", "Edmund", "Eli", "Elias", "Eliza", "Ella", "Elliott", "Erik", "Erin", "Ethan", "Eva", "Felix",
    "Fernando", "Floyd", "Francis", "Frederick", "Geoff", "Gilbert", "Giovanni", "Glenn", "Gordon", "Gregory",
    "Harvey", "Hassan", "Heather", "Helena", "Henri", "Herman", "Holly", "Hugo", "Ibrahim", "Isabel", "Jackie",
    "Jeremiah", "Jesse", "Jill", "Jorge", "Juan", "Judy", "Karl", "Kathleen", "Katie", "Ken", "Kurt", "Lauren",
    "Lawrence", "Leslie", "Lily", "Marco", "Melissa", "Miranda", "Molly", "Monica", "Naomi", "Nicholas", "Nina",
    "Norman", "Otto", "Pablo", "Pierre", "Raphael", "Rick", "Russell", "Sally", "Samantha", "Sebastian", "Stephanie",
    "Todd",
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
