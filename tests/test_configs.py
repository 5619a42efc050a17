"""Objects to plain data and back: only classes in the table, errors that help."""

import pytest

from tinydl.configs import as_config, from_config, lookup


class Plain:
    def __init__(self, size=1):
        self.size = size

    def config(self):
        return {"size": self.size}


class Own(Plain):
    @classmethod
    def from_config(cls, arguments):
        return cls(arguments["size"] * 10)


TABLE = {"plain": Plain, "alias": Plain, "own": Own}


def test_plain_data_stays_and_objects_become_class_and_config():
    for thing in (None, "relu", 3, 0.5, True):
        assert as_config(thing) is thing
    assert as_config(Plain(4)) == {"class": "Plain", "config": {"size": 4}}


def test_names_of_the_table_and_of_classes_in_any_case():
    for name in ("plain", "PLAIN", "Plain", "alias"):
        assert lookup(name, TABLE, "thing") is Plain
        assert from_config(name, TABLE, "thing").size == 1


def test_configs_lead_back():
    assert from_config(as_config(Plain(4)), TABLE, "thing").size == 4
    assert from_config({"class": "plain"}, TABLE, "thing").size == 1


def test_a_class_may_read_its_config_itself():
    assert from_config({"class": "Own", "config": {"size": 4}}, TABLE, "thing").size == 40


def test_only_classes_in_the_table():
    """A file that names anything else gets nothing imported, let alone called."""
    for name in ("os.system", "builtins.eval", "Planet"):
        with pytest.raises(ValueError, match=f"unknown thing '{name}'"):
            from_config({"class": name, "config": {}}, TABLE, "thing")


def test_unknown_names_list_the_known_and_suggest_the_nearest():
    with pytest.raises(
        ValueError, match=r"'plian' \(did you mean 'plain'\?\): expected one of alias, own, plain"
    ):
        lookup("plian", TABLE, "thing")
    with pytest.raises(ValueError, match="unknown thing 'xyzzy': expected one of"):
        lookup("xyzzy", TABLE, "thing")


@pytest.mark.parametrize("data", [3, None, [], {}, {"class": 3}, {"config": {}}])
def test_data_of_another_form_is_refused(data):
    with pytest.raises(ValueError, match="expected the name of the thing, the thing itself or"):
        from_config(data, TABLE, "thing")


def test_a_wrong_argument_is_named():
    with pytest.raises(ValueError, match=r"thing Plain: .*'colour'"):
        from_config({"class": "Plain", "config": {"colour": 1}}, TABLE, "thing")
