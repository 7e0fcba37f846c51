"""JMESPath's syntax trees as Python closures; compile.py begins, and the other files have a part of the language each."""
