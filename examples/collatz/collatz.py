"""Makes rows instead of reading them."""


def sequences(count: int):
    """Gives the numbers 1 to `count` with the number of steps that each takes to reach 1.

    A generator of a stage without `from` is a source. It is pulled only as fast as its rows are used.
    """
    for number in range(1, count + 1):
        yield {"number": number, "steps": steps(number)}


def steps(number):
    taken = 0
    while number != 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        taken += 1
    return taken
