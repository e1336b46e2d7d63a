"""Which answers are given again while what they tell of stands (node/kept_answers.py), and to whom.

An answer lasts where it tells this node's own facts about one entity as they stand for good until an event says otherwise: none of
them disputed, expiring or held back, and no other fact about the entity disputed either, which might come to show when one expires.

Always: an answer is given again to the credential that it was made for, once that has passed all its checks anew.
"""

from aiohttp import web

from node.commands.decision import Principal
from node.http.body import encoded
from node.http.fact_pages import FactsQuery, Page, shown_page
from node.http.moments import Moment
from node.http.records import Record, is_own_statement, record_of
from node.kept_answers import Kept, Question, mark_of
from node.projections.fact_rows import FactRow
from node.projections.told_facts import is_told
from node.projections.view import View
from node.runtime import Node
from node.uris import normal_uri


def question_of(request: web.Request, principal: Principal) -> Question | None:
    """What is asked, word for word, and whose rights decide; None for one whose rights the log alone does not say."""
    if principal.key is not None:
        return request.raw_path, principal.key.key_id
    return (request.raw_path, principal.via) if principal.is_operator else None


def answer_of_page(question: Question | None, asked: FactsQuery, page: Page, view: View, node: Node) -> bytes:
    """The answer to a question about a few facts of one entity, kept where it lasts."""
    shown = shown_page(page, view, node)
    answer = encoded(shown)
    if asked.cursor is None and node.is_worth_keeping(question) and _is_lasting_page(page, shown.facts, view, node):
        _keep(question, answer, page.rows, node)
    return answer


def answer_of_fact(question: Question | None, row: FactRow, moment: Moment, view: View, node: Node) -> bytes:
    """The record of one fact, kept where it lasts."""
    record = record_of(row, view, node, at=moment.at, is_past=moment.as_of is not None)
    answer = encoded(record)
    if moment.as_of is None and node.is_worth_keeping(question) and _lasts(row, record, node):
        _keep(question, answer, [row], node)
    return answer


def _keep(question: Question, answer: bytes, rows: list[FactRow], node: Node) -> None:
    about = mark_of(normal_uri(rows[0].fact.entity))
    node.keep_answer(question, Kept(answer, about, tuple([row.place for row in rows])))


def _is_lasting_page(page: Page, records: list[Record], view: View, node: Node) -> bool:
    if page.is_past or page.cursor is not None or not page.rows:
        return False
    if not all(_lasts(row, record, node) for row, record in zip(page.rows, records, strict=True)):
        return False
    about = view.facts.few_about(normal_uri(page.rows[0].fact.entity))
    if about is None or len(about) == len(page.rows):
        return about is not None
    told = {row.place for row in page.rows}
    others = (view.facts.at(place) for place in about if place not in told)
    return not any(view.conflicts.standing(other, page.at).is_contradicted for other in others)


def _lasts(row: FactRow, record: Record, node: Node) -> bool:
    fact = row.fact
    return (
        fact.valid_until is None
        and row.quarantine_status is None
        and not record.contradicted
        and is_own_statement(fact, node)
        and not is_told(row)
    )
