-- Nearly nothing: what a run costs before its first transaction, which run.sh subtracts.
SELECT 1;
