// Names of every swizzle, by the letters a vector has: R may only be read, because a letter repeats.
#pragma once

#define STRICT_SWIZZLES_XY(R, W) \
  R(2, xx) W(2, xy) W(2, yx) R(2, yy) \
  R(3, xxx) R(3, xxy) R(3, xyx) R(3, xyy) R(3, yxx) R(3, yxy) R(3, yyx) R(3, yyy) \
  R(4, xxxx) R(4, xxxy) R(4, xxyx) R(4, xxyy) R(4, xyxx) R(4, xyxy) R(4, xyyx) R(4, xyyy) \
  R(4, yxxx) R(4, yxxy) R(4, yxyx) R(4, yxyy) R(4, yyxx) R(4, yyxy) R(4, yyyx) R(4, yyyy)

#define STRICT_SWIZZLES_XYZ(R, W) \
  W(2, xz) W(2, yz) W(2, zx) W(2, zy) R(2, zz) \
  R(3, xxz) W(3, xyz) R(3, xzx) W(3, xzy) R(3, xzz) W(3, yxz) R(3, yyz) W(3, yzx) R(3, yzy) \
  R(3, yzz) R(3, zxx) W(3, zxy) R(3, zxz) W(3, zyx) R(3, zyy) R(3, zyz) R(3, zzx) R(3, zzy) \
  R(3, zzz) \
  R(4, xxxz) R(4, xxyz) R(4, xxzx) R(4, xxzy) R(4, xxzz) R(4, xyxz) R(4, xyyz) R(4, xyzx) \
  R(4, xyzy) R(4, xyzz) R(4, xzxx) R(4, xzxy) R(4, xzxz) R(4, xzyx) R(4, xzyy) R(4, xzyz) \
  R(4, xzzx) R(4, xzzy) R(4, xzzz) R(4, yxxz) R(4, yxyz) R(4, yxzx) R(4, yxzy) R(4, yxzz) \
  R(4, yyxz) R(4, yyyz) R(4, yyzx) R(4, yyzy) R(4, yyzz) R(4, yzxx) R(4, yzxy) R(4, yzxz) \
  R(4, yzyx) R(4, yzyy) R(4, yzyz) R(4, yzzx) R(4, yzzy) R(4, yzzz) R(4, zxxx) R(4, zxxy) \
  R(4, zxxz) R(4, zxyx) R(4, zxyy) R(4, zxyz) R(4, zxzx) R(4, zxzy) R(4, zxzz) R(4, zyxx) \
  R(4, zyxy) R(4, zyxz) R(4, zyyx) R(4, zyyy) R(4, zyyz) R(4, zyzx) R(4, zyzy) R(4, zyzz) \
  R(4, zzxx) R(4, zzxy) R(4, zzxz) R(4, zzyx) R(4, zzyy) R(4, zzyz) R(4, zzzx) R(4, zzzy) \
  R(4, zzzz)

#define STRICT_SWIZZLES_XYZW(R, W) \
  W(2, xw) W(2, yw) W(2, zw) W(2, wx) W(2, wy) W(2, wz) R(2, ww) \
  R(3, xxw) W(3, xyw) W(3, xzw) R(3, xwx) W(3, xwy) W(3, xwz) R(3, xww) W(3, yxw) R(3, yyw) \
  W(3, yzw) W(3, ywx) R(3, ywy) W(3, ywz) R(3, yww) W(3, zxw) W(3, zyw) R(3, zzw) W(3, zwx) \
  W(3, zwy) R(3, zwz) R(3, zww) R(3, wxx) W(3, wxy) W(3, wxz) R(3, wxw) W(3, wyx) R(3, wyy) \
  W(3, wyz) R(3, wyw) W(3, wzx) W(3, wzy) R(3, wzz) R(3, wzw) R(3, wwx) R(3, wwy) R(3, wwz) \
  R(3, www) \
  R(4, xxxw) R(4, xxyw) R(4, xxzw) R(4, xxwx) R(4, xxwy) R(4, xxwz) R(4, xxww) R(4, xyxw) \
  R(4, xyyw) W(4, xyzw) R(4, xywx) R(4, xywy) W(4, xywz) R(4, xyww) R(4, xzxw) W(4, xzyw) \
  R(4, xzzw) R(4, xzwx) W(4, xzwy) R(4, xzwz) R(4, xzww) R(4, xwxx) R(4, xwxy) R(4, xwxz) \
  R(4, xwxw) R(4, xwyx) R(4, xwyy) W(4, xwyz) R(4, xwyw) R(4, xwzx) W(4, xwzy) R(4, xwzz) \
  R(4, xwzw) R(4, xwwx) R(4, xwwy) R(4, xwwz) R(4, xwww) R(4, yxxw) R(4, yxyw) W(4, yxzw) \
  R(4, yxwx) R(4, yxwy) W(4, yxwz) R(4, yxww) R(4, yyxw) R(4, yyyw) R(4, yyzw) R(4, yywx) \
  R(4, yywy) R(4, yywz) R(4, yyww) W(4, yzxw) R(4, yzyw) R(4, yzzw) W(4, yzwx) R(4, yzwy) \
  R(4, yzwz) R(4, yzww) R(4, ywxx) R(4, ywxy) W(4, ywxz) R(4, ywxw) R(4, ywyx) R(4, ywyy) \
  R(4, ywyz) R(4, ywyw) W(4, ywzx) R(4, ywzy) R(4, ywzz) R(4, ywzw) R(4, ywwx) R(4, ywwy) \
  R(4, ywwz) R(4, ywww) R(4, zxxw) W(4, zxyw) R(4, zxzw) R(4, zxwx) W(4, zxwy) R(4, zxwz) \
  R(4, zxww) W(4, zyxw) R(4, zyyw) R(4, zyzw) W(4, zywx) R(4, zywy) R(4, zywz) R(4, zyww) \
  R(4, zzxw) R(4, zzyw) R(4, zzzw) R(4, zzwx) R(4, zzwy) R(4, zzwz) R(4, zzww) R(4, zwxx) \
  W(4, zwxy) R(4, zwxz) R(4, zwxw) W(4, zwyx) R(4, zwyy) R(4, zwyz) R(4, zwyw) R(4, zwzx) \
  R(4, zwzy) R(4, zwzz) R(4, zwzw) R(4, zwwx) R(4, zwwy) R(4, zwwz) R(4, zwww) R(4, wxxx) \
  R(4, wxxy) R(4, wxxz) R(4, wxxw) R(4, wxyx) R(4, wxyy) W(4, wxyz) R(4, wxyw) R(4, wxzx) \
  W(4, wxzy) R(4, wxzz) R(4, wxzw) R(4, wxwx) R(4, wxwy) R(4, wxwz) R(4, wxww) R(4, wyxx) \
  R(4, wyxy) W(4, wyxz) R(4, wyxw) R(4, wyyx) R(4, wyyy) R(4, wyyz) R(4, wyyw) W(4, wyzx) \
  R(4, wyzy) R(4, wyzz) R(4, wyzw) R(4, wywx) R(4, wywy) R(4, wywz) R(4, wyww) R(4, wzxx) \
  W(4, wzxy) R(4, wzxz) R(4, wzxw) W(4, wzyx) R(4, wzyy) R(4, wzyz) R(4, wzyw) R(4, wzzx) \
  R(4, wzzy) R(4, wzzz) R(4, wzzw) R(4, wzwx) R(4, wzwy) R(4, wzwz) R(4, wzww) R(4, wwxx) \
  R(4, wwxy) R(4, wwxz) R(4, wwxw) R(4, wwyx) R(4, wwyy) R(4, wwyz) R(4, wwyw) R(4, wwzx) \
  R(4, wwzy) R(4, wwzz) R(4, wwzw) R(4, wwwx) R(4, wwwy) R(4, wwwz) R(4, wwww)

#define STRICT_SWIZZLES_RG(R, W) \
  R(2, rr) W(2, rg) W(2, gr) R(2, gg) \
  R(3, rrr) R(3, rrg) R(3, rgr) R(3, rgg) R(3, grr) R(3, grg) R(3, ggr) R(3, ggg) \
  R(4, rrrr) R(4, rrrg) R(4, rrgr) R(4, rrgg) R(4, rgrr) R(4, rgrg) R(4, rggr) R(4, rggg) \
  R(4, grrr) R(4, grrg) R(4, grgr) R(4, grgg) R(4, ggrr) R(4, ggrg) R(4, gggr) R(4, gggg)

#define STRICT_SWIZZLES_RGB(R, W) \
  W(2, rb) W(2, gb) W(2, br) W(2, bg) R(2, bb) \
  R(3, rrb) W(3, rgb) R(3, rbr) W(3, rbg) R(3, rbb) W(3, grb) R(3, ggb) W(3, gbr) R(3, gbg) \
  R(3, gbb) R(3, brr) W(3, brg) R(3, brb) W(3, bgr) R(3, bgg) R(3, bgb) R(3, bbr) R(3, bbg) \
  R(3, bbb) \
  R(4, rrrb) R(4, rrgb) R(4, rrbr) R(4, rrbg) R(4, rrbb) R(4, rgrb) R(4, rggb) R(4, rgbr) \
  R(4, rgbg) R(4, rgbb) R(4, rbrr) R(4, rbrg) R(4, rbrb) R(4, rbgr) R(4, rbgg) R(4, rbgb) \
  R(4, rbbr) R(4, rbbg) R(4, rbbb) R(4, grrb) R(4, grgb) R(4, grbr) R(4, grbg) R(4, grbb) \
  R(4, ggrb) R(4, gggb) R(4, ggbr) R(4, ggbg) R(4, ggbb) R(4, gbrr) R(4, gbrg) R(4, gbrb) \
  R(4, gbgr) R(4, gbgg) R(4, gbgb) R(4, gbbr) R(4, gbbg) R(4, gbbb) R(4, brrr) R(4, brrg) \
  R(4, brrb) R(4, brgr) R(4, brgg) R(4, brgb) R(4, brbr) R(4, brbg) R(4, brbb) R(4, bgrr) \
  R(4, bgrg) R(4, bgrb) R(4, bggr) R(4, bggg) R(4, bggb) R(4, bgbr) R(4, bgbg) R(4, bgbb) \
  R(4, bbrr) R(4, bbrg) R(4, bbrb) R(4, bbgr) R(4, bbgg) R(4, bbgb) R(4, bbbr) R(4, bbbg) \
  R(4, bbbb)

#define STRICT_SWIZZLES_RGBA(R, W) \
  W(2, ra) W(2, ga) W(2, ba) W(2, ar) W(2, ag) W(2, ab) R(2, aa) \
  R(3, rra) W(3, rga) W(3, rba) R(3, rar) W(3, rag) W(3, rab) R(3, raa) W(3, gra) R(3, gga) \
  W(3, gba) W(3, gar) R(3, gag) W(3, gab) R(3, gaa) W(3, bra) W(3, bga) R(3, bba) W(3, bar) \
  W(3, bag) R(3, bab) R(3, baa) R(3, arr) W(3, arg) W(3, arb) R(3, ara) W(3, agr) R(3, agg) \
  W(3, agb) R(3, aga) W(3, abr) W(3, abg) R(3, abb) R(3, aba) R(3, aar) R(3, aag) R(3, aab) \
  R(3, aaa) \
  R(4, rrra) R(4, rrga) R(4, rrba) R(4, rrar) R(4, rrag) R(4, rrab) R(4, rraa) R(4, rgra) \
  R(4, rgga) W(4, rgba) R(4, rgar) R(4, rgag) W(4, rgab) R(4, rgaa) R(4, rbra) W(4, rbga) \
  R(4, rbba) R(4, rbar) W(4, rbag) R(4, rbab) R(4, rbaa) R(4, rarr) R(4, rarg) R(4, rarb) \
  R(4, rara) R(4, ragr) R(4, ragg) W(4, ragb) R(4, raga) R(4, rabr) W(4, rabg) R(4, rabb) \
  R(4, raba) R(4, raar) R(4, raag) R(4, raab) R(4, raaa) R(4, grra) R(4, grga) W(4, grba) \
  R(4, grar) R(4, grag) W(4, grab) R(4, graa) R(4, ggra) R(4, ggga) R(4, ggba) R(4, ggar) \
  R(4, ggag) R(4, ggab) R(4, ggaa) W(4, gbra) R(4, gbga) R(4, gbba) W(4, gbar) R(4, gbag) \
  R(4, gbab) R(4, gbaa) R(4, garr) R(4, garg) W(4, garb) R(4, gara) R(4, gagr) R(4, gagg) \
  R(4, gagb) R(4, gaga) W(4, gabr) R(4, gabg) R(4, gabb) R(4, gaba) R(4, gaar) R(4, gaag) \
  R(4, gaab) R(4, gaaa) R(4, brra) W(4, brga) R(4, brba) R(4, brar) W(4, brag) R(4, brab) \
  R(4, braa) W(4, bgra) R(4, bgga) R(4, bgba) W(4, bgar) R(4, bgag) R(4, bgab) R(4, bgaa) \
  R(4, bbra) R(4, bbga) R(4, bbba) R(4, bbar) R(4, bbag) R(4, bbab) R(4, bbaa) R(4, barr) \
  W(4, barg) R(4, barb) R(4, bara) W(4, bagr) R(4, bagg) R(4, bagb) R(4, baga) R(4, babr) \
  R(4, babg) R(4, babb) R(4, baba) R(4, baar) R(4, baag) R(4, baab) R(4, baaa) R(4, arrr) \
  R(4, arrg) R(4, arrb) R(4, arra) R(4, argr) R(4, argg) W(4, argb) R(4, arga) R(4, arbr) \
  W(4, arbg) R(4, arbb) R(4, arba) R(4, arar) R(4, arag) R(4, arab) R(4, araa) R(4, agrr) \
  R(4, agrg) W(4, agrb) R(4, agra) R(4, aggr) R(4, aggg) R(4, aggb) R(4, agga) W(4, agbr) \
  R(4, agbg) R(4, agbb) R(4, agba) R(4, agar) R(4, agag) R(4, agab) R(4, agaa) R(4, abrr) \
  W(4, abrg) R(4, abrb) R(4, abra) W(4, abgr) R(4, abgg) R(4, abgb) R(4, abga) R(4, abbr) \
  R(4, abbg) R(4, abbb) R(4, abba) R(4, abar) R(4, abag) R(4, abab) R(4, abaa) R(4, aarr) \
  R(4, aarg) R(4, aarb) R(4, aara) R(4, aagr) R(4, aagg) R(4, aagb) R(4, aaga) R(4, aabr) \
  R(4, aabg) R(4, aabb) R(4, aaba) R(4, aaar) R(4, aaag) R(4, aaab) R(4, aaaa)
