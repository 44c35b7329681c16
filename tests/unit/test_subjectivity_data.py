"""Labelled sentences: what is read, what is refused, which part it falls into, which are drawn."""

import json
from collections import Counter

import pytest

from gfn_ray.data.columns import Columns
from gfn_ray.errors import UserError
from gfn_ray.tasks.subjectivity.config import SubjectivityDataConfig
from gfn_ray.tasks.subjectivity.data import (
    LABELS,
    Sentence,
    _of_tables,
    draw_labels,
    load_sentences,
    with_noise,
)

ROW = {"text": "A man rows home.", "label": 0, "label_text": "objective"}


class Table:
    def __init__(self, rows):
        self.column_names = list(rows[0])
        self._rows = rows

    def __iter__(self):
        return iter(self._rows)


def of_file(tmp_path, raw):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(raw)
    return load_sentences(SubjectivityDataConfig(path=file))


def lines(*rows):
    return b"\n".join(json.dumps(row).encode() for row in rows)


def together(splits):
    return [*splits.pool, *splits.validation, *splits.test]


@pytest.fixture(scope="module")
def embedded():
    return load_sentences(SubjectivityDataConfig())


def test_the_embedded_sentences_differ_and_each_part_is_balanced(embedded):
    sentences = together(embedded)
    assert len({one.text for one in sentences}) == len(sentences) >= 320
    for part, least in (
        (embedded.pool, 100),
        (embedded.validation, 60),
        (embedded.test, 150),
    ):
        counts = Counter(one.label for one in part)
        assert len(part) >= least
        assert counts[0] == counts[1]


def test_the_embedded_sentences_vary_in_length_and_give_no_label_away(embedded):
    sentences = together(embedded)
    lengths = [len(one.text.split()) for one in sentences]
    assert min(lengths) >= 8 and max(lengths) <= 25
    starts = [Counter(s.text.split()[0] for s in sentences if s.label == i) for i in (0, 1)]
    assert all(most < 0.35 * len(sentences) / 2 for c in starts for _, most in c.most_common(1))
    assert starts[0].most_common(1)[0][0] == starts[1].most_common(1)[0][0] == "The"


def test_the_parts_share_no_sentence(embedded):
    ids = [one.sentence_id for one in together(embedded)]
    assert len(set(ids)) == len(ids)


def test_a_files_last_line_needs_no_newline_and_blank_lines_are_passed_over(tmp_path):
    raw = b"\xef\xbb\xbf" + lines(ROW, {"text": "I  adored\tit.", "label": 1}) + b"\n\n"
    raw += lines({"text": "Dull.", "label": 1, "label_text": "subjective"})
    found = {s.sentence_id: (s.text, LABELS[s.label]) for s in together(of_file(tmp_path, raw))}
    assert found == {
        "line-1": ("A man rows home.", "objective"),
        "line-2": ("I adored it.", "subjective"),
        "line-4": ("Dull.", "subjective"),
    }


def test_equal_texts_of_a_file_stay_in_one_part(tmp_path):
    rows = [{"text": f"Sentence number {i % 200}.", "label": i % 2} for i in range(600)]
    splits = of_file(tmp_path, lines(*rows))
    texts = [{s.text for s in part} for part in (splits.pool, splits.validation, splits.test)]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 200


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"{", "line 1: not a line of JSON"),
        (b"\xff", "line 1: bytes that are not UTF-8"),
        (b"[1]", "line 1: expected an object with text and label"),
        (lines(ROW, {"text": " ", "label": 0}), "line 2, text: expected a sentence, got ' '"),
        (lines({"text": 3, "label": 0}), "line 1, text: expected a sentence, got 3"),
        (
            lines({"text": "a", "n": None, "label": None}),
            "line 1, label: expected 0 .objective. or 1 .subjective., got None",
        ),
        (
            lines({"sentence": "a", "polarity": 1}),
            "line 1: missing keys text, label; found sentence, polarity; .*sentence=text",
        ),
        (lines({}), "line 1: missing keys text, label; found no key; .*FOUND=text"),
        (lines(ROW | {"label": 2}), "line 1, label: .* got 2"),
        (lines(ROW | {"label": True}), "line 1, label: .* got True"),
        (lines(ROW | {"label": 1}), "line 1, label_text: expected 'subjective', as label 1 says"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(tmp_path, raw, complaint):
    with pytest.raises(UserError, match=complaint):
        of_file(tmp_path, raw)


def test_a_file_that_is_not_there_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match=r"--data\.path: cannot read"):
        load_sentences(SubjectivityDataConfig(path=tmp_path / "none.jsonl"))


def test_all_tables_of_the_hub_are_read_and_a_bad_row_is_named():
    plain = Columns({})
    found = list(_of_tables({"train": Table([ROW]), "test": Table([ROW])}, "me/subj", plain))
    assert [one.sentence_id for one in found] == ["train-1", "test-1"]
    with pytest.raises(UserError, match="me/subj, train, row 2, label"):
        list(_of_tables({"train": Table([ROW, ROW | {"label": "x"}])}, "me/subj", plain))
    with pytest.raises(UserError, match="me/subj, train: missing column text; found sentence, lab"):
        list(_of_tables({"train": Table([{"sentence": "A.", "label": 1}])}, "me/subj", plain))


@pytest.mark.parametrize("labels", [2, 7, 10, 20, 50])
def test_a_draw_is_balanced_without_repetition_and_grows(embedded, labels):
    drawn = draw_labels(embedded.pool, labels, draw=3)
    counts = Counter(one.label for one in drawn)
    assert counts[0] - counts[1] == labels % 2
    assert len({one.sentence_id for one in drawn}) == labels
    assert draw_labels(embedded.pool, labels + 2, draw=3)[:labels] == drawn
    assert set(drawn) <= set(embedded.pool)


def test_another_draw_gives_other_sentences_and_the_same_draw_the_same(embedded):
    first, again, other = (draw_labels(embedded.pool, 10, draw) for draw in (0, 0, 1))
    assert first == again != other


def test_more_labels_than_the_pool_has_are_refused():
    pool = [Sentence("a", "A.", 0), Sentence("b", "B.", 0), Sentence("c", "C.", 1)]
    with pytest.raises(UserError, match=r"task\.labels 4 needs 2 subjective sentences.* has 1"):
        draw_labels(pool, 4, 0)


@pytest.mark.parametrize(("share", "wrong"), [(0.0, 0), (0.1, 1), (0.3, 3), (1.0, 10)])
def test_noise_turns_that_share_of_labels_and_more_of_it_turns_more(embedded, share, wrong):
    drawn = draw_labels(embedded.pool, 10, 0)

    def turned(share):
        noisy = with_noise(drawn, share, 0)
        assert [one.text for one in noisy] == [one.text for one in drawn]
        return {i for i, (a, b) in enumerate(zip(drawn, noisy, strict=True)) if a.label != b.label}

    assert len(turned(share)) == wrong
    assert turned(share) <= turned(1.0)
