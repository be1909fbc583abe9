"""Projectors, a file each: how teacher heads and widths become student heads and widths.

Every module here is a choice of ``--projector``. Rooms without torch read its constants and never import it
(kvlab.request.declared): ``WORDS`` of the form, ``ONE_WIDTH`` where all teacher heads must be equally wide, ``PLACE``
in lists. ``solve(train, shapes, heads_s, penalty)`` gives W [P, Q] from centred sums; ``shapes`` are heads and width
of the teacher layers side by side, ``penalty`` is relative to the mean variance of the features.
"""
