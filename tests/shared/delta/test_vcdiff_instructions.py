from __future__ import annotations

from shared.delta.vcdiff_instructions import ADD, CODE_TABLE, COPY, NOTHING, RUN, AddressCache, Half


def test_the_default_code_table_of_rfc_3284_section_5_6():
    assert len(CODE_TABLE) == 256
    assert CODE_TABLE[0] == (Half(RUN, 0, 0), NOTHING)
    assert CODE_TABLE[1] == (Half(ADD, 0, 0), NOTHING)
    assert CODE_TABLE[18] == (Half(ADD, 17, 0), NOTHING)
    assert CODE_TABLE[19] == (Half(COPY, 0, 0), NOTHING)
    assert CODE_TABLE[20] == (Half(COPY, 4, 0), NOTHING)
    assert CODE_TABLE[162] == (Half(COPY, 18, 8), NOTHING)
    assert CODE_TABLE[163] == (Half(ADD, 1, 0), Half(COPY, 4, 0))
    assert CODE_TABLE[174] == (Half(ADD, 4, 0), Half(COPY, 6, 0))
    assert CODE_TABLE[234] == (Half(ADD, 4, 0), Half(COPY, 6, 5))
    assert CODE_TABLE[235] == (Half(ADD, 1, 0), Half(COPY, 4, 6))
    assert CODE_TABLE[246] == (Half(ADD, 4, 0), Half(COPY, 4, 8))
    assert CODE_TABLE[247] == (Half(COPY, 4, 0), Half(ADD, 1, 0))
    assert CODE_TABLE[255] == (Half(COPY, 4, 8), Half(ADD, 1, 0))


def test_the_shortest_address_is_chosen():
    cache = AddressCache()
    assert cache.choose(5000, 9000) == (1, 4000)
    assert cache.choose(3000, 9000) == (0, 3000)
    cache.update(3000)
    assert cache.choose(3000, 9000) == (6 + 3000 % 768 // 256, 3000 % 256)
    assert cache.choose(3010, 9000) == (2, 10)
    assert cache.choose(8999, 9000) == (1, 1)
    for address in (10, 20, 30, 40):
        cache.update(address)
    assert cache.choose(45, 9000) == (2, 5)  # the newest took the oldest's slot
